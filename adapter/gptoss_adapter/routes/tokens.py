"""POST /tokenize and POST /detokenize; GET /tokenizer_info, by which evaluations see that they may ask these.

Stage: 1 route, 2 validate, 3 prompt.
Owns: nothing more than the three answers.
Does not know: gRPC, Harmony.
"""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from gptoss_adapter.context import current_record
from gptoss_adapter.disconnect import until_disconnect
from gptoss_adapter.errors import invalid_value
from gptoss_adapter.prompting import chat_request, check_length, naming_tools_of_chats
from gptoss_adapter.raw_prompts import decode_text, encode_text, text_names, token_ids
from gptoss_adapter.schemas.answers import ErrorBody
from gptoss_adapter.schemas.model_answers import DetokenizedText, TokenizerInfo, Tokens
from gptoss_adapter.schemas.tokens import DetokenizeRequest, TokenizeChatRequest, TokenizeRequest
from gptoss_adapter.serving import ServedModel, Services, Shared
from gptoss_adapter.strict_routes import StrictJsonRoute
from gptoss_backend.harmony.vocabulary import ENDOFTEXT, NUM_TOKENS, RETURN, STARTOFTEXT, token_bytes

router = APIRouter(tags=["tokens"], route_class=StrictJsonRoute)


@router.post("/tokenize", response_model=Tokens, responses={"4XX": {"model": ErrorBody}, "5XX": {"model": ErrorBody}})
async def tokenize(body: TokenizeRequest, request: Request, services: Shared) -> Response:
    """Return the tokens of a text, or of the prompt that is made of a chat."""
    served = services.route(body.model)
    if isinstance(body, TokenizeChatRequest):
        async with until_disconnect(request.receive):
            tokens = await _chat_tokens(body, served, services)
    else:
        tokens = await encode_text(body.prompt, services.encoding_turns)
    answer = Tokens(count=len(tokens), max_model_len=await services.max_model_len(served.name), tokens=tokens)
    if body.return_token_strs:
        answer = answer.model_copy(update={"token_strs": await text_names(tokens)})
    return Response(answer.json_bytes(), media_type="application/json")


@router.post("/detokenize", response_model=DetokenizedText, responses={"4XX": {"model": ErrorBody}})
async def detokenize(body: DetokenizeRequest, services: Shared) -> Response:
    """Return the text of tokens."""
    services.route(body.model)
    if max(body.tokens, default=0) >= NUM_TOKENS:
        place, token = next((place, token) for place, token in enumerate(body.tokens) if token >= NUM_TOKENS)
        message = f"'tokens[{place}]' is {token}; the vocabulary ends at {NUM_TOKENS - 1}."
        raise invalid_value(message, f"tokens[{place}]")
    text = DetokenizedText(prompt=await decode_text(body.tokens))
    return Response(text.json_bytes(), media_type="application/json")


@router.get("/tokenizer_info", response_model=TokenizerInfo)
async def tokenizer_info(services: Shared) -> Response:
    """Name the special tokens that begin, end and fill up a text. They are the same for all models."""
    bos, eos, pad = (token_bytes(token).decode() for token in (STARTOFTEXT, RETURN, ENDOFTEXT))
    info = TokenizerInfo(
        tokenizer_class="PreTrainedTokenizerFast",
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        model_max_length=await services.max_model_len(services.route(None).name),
    )
    return Response(info.json_bytes(), media_type="application/json")


async def _chat_tokens(body: TokenizeChatRequest, served: ServedModel, services: Services) -> list[int]:
    check_length(body, services.settings.adapter)
    chat = chat_request(body, served.profile, services.today())
    with naming_tools_of_chats(body):
        return token_ids(await services.model_server.preprocess(chat, current_record().request_id))
