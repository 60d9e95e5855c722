# syntax=docker/dockerfile:1
# The OpenAI API in front of Triton: FastAPI and a gRPC client; no torch, no GPU.
# From the project's folder: docker build -f docker/adapter.Dockerfile -t gptoss/adapter:0.1.0 .

FROM python:3.11-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
COPY pyproject.toml README.md ./
COPY requirements/lock.txt requirements/
COPY backend/ backend/
COPY adapter/ adapter/
# in the versions the tests ran with: a constraint fixes them and installs nothing by itself. It does not reach into a build's
# isolation, where pip takes the newest setuptools: so that comes first, by the lock, and builds without
RUN --mount=type=cache,target=/root/.cache/pip pip install --constraint requirements/lock.txt setuptools && \
    pip install --no-build-isolation --constraint requirements/lock.txt ".[adapter,tracing,mcp]"

FROM python:3.11-slim-bookworm
COPY --from=build /opt/venv /opt/venv
COPY configs/server_config.yaml /etc/gptoss/server_config.yaml
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    GPTOSS_CONFIG=/etc/gptoss/server_config.yaml \
    GPTOSS_SERVER__HOST=0.0.0.0 \
    GPTOSS_SERVER__PORT=8000 \
    GPTOSS_SERVER__RUN_DIR=/var/lib/gptoss
# a volume made here takes over whose it is
RUN install --directory --owner=65532 --group=65532 /var/lib/gptoss
# a number, so that Kubernetes can check runAsNonRoot
USER 65532:65532
EXPOSE 8000
# by HTTP or HTTPS, whichever adapter.tls_certificate has it speak
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --start-interval=1s --retries=3 \
    CMD ["python", "-m", "gptoss_adapter.healthcheck", "8000"]
CMD ["python", "-m", "gptoss_adapter"]
