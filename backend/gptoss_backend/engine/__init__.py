"""The inference engine for one architecture, GPT-OSS. Torch only: it knows no Triton, HTTP or JSON on the wire.

A request's way, which `engine` goes over and over, on the one thread that owns the device:

- in: `sequence` is a request and what is said of it; `intake` makes one of it, `inbox` hands it to the thread
- schedule: `scheduler` fills each `step`, in the order of `urgency`; `guessing` adds what may come next, by
  `speculation`; `batch` lays it out flat
- compute: a `model` gives logits or tokens; `prompt_scores` looks at those of prompts
- choose: `sampler`, with `edits`, `penalties` and `grammar` before it, `drawing`, `ranking` and `uniforms` under it,
  `logprobs` after it
- out: `news` is what there is to say, `ledger` what is counted, in `observations`

What it stands on:

- the cache: `cache_sizing` says how large it becomes, `cache_plan` how many blocks that is; `kv_cache` keeps account of
  them, over `block_pool` and `block_hashes`
- a model's loading: `loading`, from `config`, `checkpoint` and `checkpoint_files`; `computing` says what computes, in
  which `precision`; `shard` is what one device holds; `options` are what can be asked for; `memory` is read from the
  machine
- weights: `mxfp4` with `bit_order`, and `int8`
- the forward pass: `torch_model`, of `attention`, `experts` and `rope`, in the ways that `operators` list; `transfer`
  brings it its numbers. `kernels/` is the same for GPUs, `native/` for processors with AVX2 or AVX-512, `eagle/` a head
  that drafts
- several devices: `placement/`

`errors` are what can go wrong in all of it.
"""
