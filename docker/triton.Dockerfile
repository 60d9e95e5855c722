# syntax=docker/dockerfile:1
# Triton with the GPT-OSS backend, for a node with NVIDIA GPUs.
# From the project's folder: docker build -f docker/triton.Dockerfile -t gptoss/triton:0.1.0 .
#
# 26.09 is Triton 2.73.0 (Python 3.12, CUDA 13.4), the version of the adapter's tritonclient. It is the first whose Python
# backend ends cleanly while a model publishes its own metrics, as ours do (its release notes: a segfault at shutdown).
FROM nvcr.io/nvidia/tritonserver:26.09-py3

# The stub runs the image's own python3, so packages go there. Its torch brings the CUDA libraries it was built with.
ARG TORCH_INSTALL=torch==2.13.0
WORKDIR /opt/gptoss
COPY requirements/lock.txt requirements/
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m pip install --break-system-packages --constraint requirements/lock.txt setuptools ${TORCH_INSTALL}
COPY pyproject.toml README.md ./
COPY backend/ backend/
COPY client/ client/
# The client holds tritonserver's flags, so that a container and `gptoss serve` start the same server. A constraint does not
# reach into a build's isolation, where pip takes the newest setuptools: the lock's, from above, builds without.
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m pip install --break-system-packages --no-build-isolation --constraint requirements/lock.txt ".[backend,client]"
COPY model_repository/ model_repository/
COPY configs/server_config.yaml /etc/gptoss/server_config.yaml
COPY docker/triton_entrypoint.py ./

# Checkpoints come from the volume at HF_HOME (docker/compose.yaml shows how to fill it). The image's user has no home:
# compiled kernels and the demo's checkpoint go to /var/cache/gptoss.
ENV HF_HOME=/var/cache/huggingface \
    TRITON_HOME=/var/cache/gptoss \
    TORCHINDUCTOR_CACHE_DIR=/var/cache/gptoss/torchinductor \
    PYTHONUNBUFFERED=1 \
    GPTOSS_CONFIG=/etc/gptoss/server_config.yaml \
    GPTOSS_CHECKPOINTS__DEMO=/var/cache/gptoss/gpt-oss-demo \
    GPTOSS_SERVER__MODEL_REPOSITORY=/opt/gptoss/model_repository \
    GPTOSS_SERVER__RUN_DIR=/var/cache/gptoss/run \
    GPTOSS_SERVER__TRITON_HOST=0.0.0.0 \
    GPTOSS_SERVER__TRITON_GRPC_PORT=8001 \
    GPTOSS_SERVER__TRITON_METRICS_PORT=8002 \
    GPTOSS_SERVER__TRITON_HTTP_PORT=8003
RUN install --directory --owner=triton-server --group=triton-server "$HF_HOME" /var/cache/gptoss
# triton-server, by number so that Kubernetes can check runAsNonRoot
USER 1000:1000
EXPOSE 8001 8002 8003

# A large checkpoint takes minutes to load, as long as server.startup_timeout_s allows.
HEALTHCHECK --interval=10s --timeout=5s --start-period=600s --start-interval=2s --retries=3 \
    CMD ["curl", "--fail", "--silent", "--noproxy", "*", "http://127.0.0.1:8003/v2/health/ready"]
# The base image's entry point, which sets up CUDA's compatibility with older drivers, stays in front of this. Each stub
# keeps tensors in /dev/shm: run with --shm-size=1g or more, as Docker's own 64 MB are too few.
CMD ["python3", "/opt/gptoss/triton_entrypoint.py"]
