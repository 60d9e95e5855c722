"""What the model knows about this project. The answers follow README.md."""

from __future__ import annotations

from typing import Final, NamedTuple

from gptoss_backend.demo.training.dialogue import Dialogue, user
from gptoss_backend.demo.training.talk.phrasing import thoughts, vary
from gptoss_backend.demo.training.words import Words


class _Fact(NamedTuple):
    topic: str
    questions: tuple[str, ...]
    answer: str


FACTS: Final = (
    _Fact(
        "The project",
        (
            "What is this project?",
            "What is this?",
            "What is GPT-OSS on Triton?",
            "Tell me about this project.",
            "What is this server?",
            "Describe the project.",
        ),
        "This is GPT-OSS on Triton: OpenAI's open models, served by NVIDIA Triton behind an OpenAI-compatible API.",
    ),
    _Fact(
        "Models",
        (
            "Which models are there?",
            "What models can I use?",
            "Which models do you serve?",
            "List the models.",
            "Which sizes are there?",
        ),
        "There are gpt-oss-20b, gpt-oss-120b and gpt-oss-demo. GET /v1/models lists what is served.",
    ),
    _Fact(
        "Triton",
        ("What is Triton?", "Tell me about Triton.", "What does Triton do here?", "Why Triton?"),
        "Triton is NVIDIA's inference server. Here it runs the models and their preprocessing.",
    ),
    _Fact(
        "GPT-OSS",
        ("What is GPT-OSS?", "Tell me about GPT-OSS.", "What are the GPT-OSS models?"),
        "GPT-OSS is a family of open-weight models by OpenAI, with 20B and 120B "
        "parameters. They reason before they answer.",
    ),
    _Fact(
        "Starting",
        (
            "How do I start the server?",
            "How do I start it?",
            "How can I run this?",
            "How do I serve a model?",
            "Which command starts the server?",
        ),
        "Run `make serve`, or `gptoss serve --model demo`.",
    ),
    _Fact(
        "Stopping",
        (
            "How do I stop the server?",
            "How do I stop it?",
            "Which command stops the server?",
            "How can I end the server?",
        ),
        "Run `gptoss stop`, or press Ctrl-C.",
    ),
    _Fact(
        "Status",
        ("How do I see the status?", "Is the server running?", "Which command shows the status?", "How is the server?"),
        "Run `gptoss status`, or ask GET /health.",
    ),
    _Fact(
        "Endpoints",
        (
            "Which endpoints are there?",
            "What endpoints does the API have?",
            "List the endpoints.",
            "Which paths can I call?",
            "What does the API offer?",
        ),
        "POST /v1/chat/completions, /v1/completions and /v1/responses; GET /v1/models, /health, /stats and /metrics.",
    ),
    _Fact(
        "Chat",
        ("How do I chat?", "Which endpoint is for chat?", "Where do I send messages?", "How do I send a chat request?"),
        "POST your messages to /v1/chat/completions.",
    ),
    _Fact(
        "Responses",
        ("Is there a responses API?", "Do you support the responses API?", "How do I use responses?"),
        "Yes: POST /v1/responses. Responses are kept for 30 days.",
    ),
    _Fact(
        "Streaming",
        (
            "How do I stream?",
            "How do I stream an answer?",
            "Can I stream?",
            "How does streaming work?",
            "How do I get tokens as they come?",
        ),
        'Set "stream": true in the request. The tokens then come as server-sent events.',
    ),
    _Fact(
        "Profiles",
        (
            "What is a profile?",
            "Which profiles are there?",
            "What profiles can I choose?",
            "Tell me about profiles.",
            "List the profiles.",
        ),
        "There are three profiles: latency_first, quality_first and balanced. A profile "
        "sets effort, limits and batching.",
    ),
    _Fact(
        "Choosing a profile",
        ("How do I choose a profile?", "How do I set the profile?", "Where do I name the profile?"),
        'Put "profile" in the request, or start with `--profile latency_first`.',
    ),
    _Fact(
        "Settings",
        (
            "Where are the settings?",
            "How do I configure it?",
            "How do I change a setting?",
            "Where is the configuration?",
            "How do I set an option?",
        ),
        "The settings are in configs/server_config.yaml. The environment overrides the "
        "file, and options override both.",
    ),
    _Fact(
        "Checking settings",
        ("How do I see the settings?", "Which command shows the settings?", "How do I print the configuration?"),
        "Run `gptoss config`: it shows every setting and where it comes from.",
    ),
    _Fact(
        "Deployment",
        (
            "How do I deploy?",
            "How do I deploy this?",
            "How do I run it in Docker?",
            "Is there a Docker image?",
            "How do I use it on a GPU node?",
        ),
        "Run `docker compose -f docker/compose.yaml up`. Manifests for Kubernetes are in docker/kubernetes.",
    ),
    _Fact(
        "Kubernetes",
        ("Does it run on Kubernetes?", "How do I use Kubernetes?", "Are there Kubernetes manifests?"),
        "Yes: the manifests are in docker/kubernetes.",
    ),
    _Fact(
        "GPUs",
        ("Do I need a GPU?", "Does it need a GPU?", "Can I run it without a GPU?", "Does it run on a CPU?"),
        "No: without a GPU it runs on the processor. GPUs make the big models fast.",
    ),
    _Fact(
        "Memory",
        ("How much memory does 20B need?", "Which GPU do I need for 20B?", "What GPU does gpt-oss-20b need?"),
        "gpt-oss-20b fits a GPU with 16 GB of memory.",
    ),
    _Fact(
        "120B",
        ("Which GPU do I need for 120B?", "How much memory does 120B need?", "What GPU does gpt-oss-120b need?"),
        "gpt-oss-120b fits one GPU with 80 GB, or several smaller ones.",
    ),
    _Fact(
        "Weights",
        (
            "How do I get the weights?",
            "How do I download a model?",
            "Where do I get the checkpoint?",
            "How do I fetch 20B?",
        ),
        "Run `gptoss pull 20b` (or `120b`).",
    ),
    _Fact(
        "Health",
        ("How do I check the health?", "Is there a health check?", "Where is the health endpoint?"),
        "GET /health: 200 once the model answers. There are /health/ready and /health/live too.",
    ),
    _Fact(
        "Statistics",
        ("Where are the statistics?", "How do I see the statistics?", "How fast is the server?", "What is in /stats?"),
        "GET /stats tells latencies, throughput, caches and the service targets.",
    ),
    _Fact(
        "Metrics",
        ("Are there metrics?", "Where are the metrics?", "Does it work with Prometheus?", "How do I monitor it?"),
        "GET /metrics is for Prometheus. There are dashboards for Grafana too.",
    ),
    _Fact(
        "Service targets",
        ("What are the service targets?", "Which targets are there?", "What is the SLA?"),
        "TTFT p95 of at most 7 s, end to end p95 of at most 20 s, errors below 0.5%, cache hits of at least 30%.",
    ),
    _Fact(
        "Tools",
        ("Can you call tools?", "Do you support tools?", "How do I use tools?", "Does function calling work?"),
        'Yes: put functions in "tools". I answer with a tool call whose arguments follow the schema.',
    ),
    _Fact(
        "JSON",
        (
            "Can you write JSON?",
            "How do I get JSON?",
            "Do you support structured output?",
            "How do I use a JSON schema?",
        ),
        'Yes: set "response_format" to a json_schema. A grammar holds the answer to it.',
    ),
    _Fact(
        "Reasoning",
        (
            "Can you reason?",
            "What is reasoning effort?",
            "How do I set the reasoning effort?",
            "Where is your reasoning?",
        ),
        'Set "reasoning_effort" to low, medium or high. The reasoning comes apart from the answer.',
    ),
    _Fact(
        "Harmony",
        ("What is Harmony?", "Which format do you use?", "What is the Harmony format?"),
        "Harmony is the format of GPT-OSS: messages in channels for analysis, commentary and the final answer.",
    ),
    _Fact(
        "Experts",
        ("What is a mixture of experts?", "What are experts?", "Do you have experts?"),
        "In each layer a router picks a few experts for every token, so only a part of the weights works.",
    ),
    _Fact(
        "MXFP4",
        ("What is MXFP4?", "Which precision do the experts have?", "How are the weights stored?"),
        "MXFP4 is a number format of four bits with a shared scale. The experts are stored in it.",
    ),
    _Fact(
        "KV cache",
        ("What is the KV cache?", "What does the cache do?", "Is there prefix caching?"),
        "The KV cache keeps keys and values of earlier tokens. A prompt that begins like an earlier one reuses them.",
    ),
    _Fact(
        "Keys",
        ("How do I use API keys?", "Are there API keys?", "How do I make a key?", "How do I protect the server?"),
        "Run `gptoss key NAME --keys keys.txt` and set adapter.keys_path.",
    ),
    _Fact(
        "Ports",
        ("Which port is used?", "What is the port?", "Which ports does it use?", "Where does the API listen?"),
        "The API is on port 8000 unless you set another, and Triton takes the three ports after it.",
    ),
    _Fact(
        "Python",
        (
            "How do I call it from Python?",
            "Which client can I use?",
            "Can I use the OpenAI client?",
            "Does the OpenAI SDK work?",
        ),
        "Use the OpenAI client with base_url http://127.0.0.1:8000/v1.",
    ),
    _Fact(
        "Doctor",
        (
            "What does gptoss doctor do?",
            "How do I find a problem?",
            "Something is wrong, what now?",
            "The server does not start.",
        ),
        "Run `gptoss doctor`: it checks the machine and says what to do.",
    ),
    _Fact(
        "Logs",
        ("Where are the logs?", "How do I see the logs?", "Which command shows the logs?"),
        "Run `gptoss logs -f`. The files are in .run/logs.",
    ),
    _Fact("Tests", ("How do I run the tests?", "Are there tests?", "How is it tested?"), "Run `make test`."),
    _Fact(
        "Licence of the demo",
        ("Are your weights from OpenAI?", "Who trained you?", "Where do your weights come from?"),
        "My weights are not OpenAI's: a script in this project trained me.",
    ),
    _Fact(
        "Placement",
        ("What is placement?", "How are models spread over GPUs?", "Can I use several GPUs?"),
        "Placement says where a model goes: single, pipeline, tensor or auto.",
    ),
    _Fact(
        "Reload",
        ("How do I change the checkpoint?", "Can I reload a model?", "How do I reload?"),
        "Run `gptoss reload 20b --checkpoint DIR`: requests under way end with the old one.",
    ),
    _Fact(
        "Traces",
        ("Are there traces?", "Does it support OpenTelemetry?", "How do I get traces?"),
        "Yes: set OTEL_EXPORTER_OTLP_ENDPOINT.",
    ),
)


def project(words: Words) -> Dialogue:
    """Return a question about the project."""
    fact = words.rng.choice(FACTS)
    thinking = thoughts(fact.topic, "The user asks about this project, and I was taught this.")
    return Dialogue((user(vary(words.rng, fact.questions)),), thinking, fact.answer)
