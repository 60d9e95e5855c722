"""The contract on the wire: tensor names, dtypes, and the dataclasses with their codecs.

Stage: every hop between the adapter (or any Triton client) and the stubs.
Owns: every tensor name and JSON key. Nothing else in the project spells one.
Does not know: HTTP, Triton's client or stub libraries, torch.

Begin at tensors.py (what goes in and out of the models), then codecs.py (the documents in them). All others import from
here, never from a module.
"""

from gptoss_backend.contract.chat import ChatMessage, ChatRequest, Phase, ReasoningEffort, Role, ToolCall
from gptoss_backend.contract.codecs import (
    CHAT_CODEC,
    EVENT_CODEC,
    REFUSAL_CODEC,
    SAMPLING_CODEC,
    ContractError,
    decode_sampling,
)
from gptoss_backend.contract.errors import GenerationErrorCode, decode_error, encode_error
from gptoss_backend.contract.events import (
    MOST_TOLD_OF_PROMPT,
    STOP_TOKENS,
    Alternative,
    Continued,
    Finished,
    FinishReason,
    GenerationEvent,
    Started,
    Timings,
    TokenLogprob,
)
from gptoss_backend.contract.forms import MAX_SCHEMA_BYTES, ResponseFormat, TextForm, TextFormKind
from gptoss_backend.contract.sampling import Refusal, SamplingParams
from gptoss_backend.contract.structure import OutputStructure
from gptoss_backend.contract.tensors import (
    CHAT,
    CHECKPOINT_PARAMETER,
    EVENT,
    GENERATE_INPUTS,
    GENERATE_OUTPUTS,
    PREPROCESS,
    PREPROCESS_INPUTS,
    PREPROCESS_OUTPUTS,
    PROMPT_IDS,
    SAMPLING,
    TEXT,
    TOKEN_IDS,
    TensorSpec,
)
from gptoss_backend.contract.tools import (
    BuiltinName,
    BuiltinTool,
    CallSyntax,
    CustomTool,
    FunctionTool,
    Tool,
    ToolChoice,
    ToolChoiceMode,
)

__all__ = [
    "CHAT",
    "CHAT_CODEC",
    "CHECKPOINT_PARAMETER",
    "EVENT",
    "EVENT_CODEC",
    "GENERATE_INPUTS",
    "GENERATE_OUTPUTS",
    "MAX_SCHEMA_BYTES",
    "MOST_TOLD_OF_PROMPT",
    "PREPROCESS",
    "PREPROCESS_INPUTS",
    "PREPROCESS_OUTPUTS",
    "PROMPT_IDS",
    "REFUSAL_CODEC",
    "SAMPLING",
    "SAMPLING_CODEC",
    "STOP_TOKENS",
    "TEXT",
    "TOKEN_IDS",
    "Alternative",
    "BuiltinName",
    "BuiltinTool",
    "CallSyntax",
    "ChatMessage",
    "ChatRequest",
    "Continued",
    "ContractError",
    "CustomTool",
    "FinishReason",
    "Finished",
    "FunctionTool",
    "GenerationErrorCode",
    "GenerationEvent",
    "OutputStructure",
    "Phase",
    "ReasoningEffort",
    "Refusal",
    "ResponseFormat",
    "Role",
    "SamplingParams",
    "Started",
    "TensorSpec",
    "TextForm",
    "TextFormKind",
    "Timings",
    "TokenLogprob",
    "Tool",
    "ToolCall",
    "ToolChoice",
    "ToolChoiceMode",
    "decode_error",
    "decode_sampling",
    "encode_error",
]
