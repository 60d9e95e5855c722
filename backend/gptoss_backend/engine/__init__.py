"""The inference engine for one architecture, GPT-OSS. Torch only: it knows no Triton, HTTP or JSON on the wire."""
