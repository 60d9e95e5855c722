"""The Harmony vocabulary as a Hugging Face tokenizer, which the other servers want beside a checkpoint.

Stage: before a run.
Owns: tokenizer.json and tokenizer_config.json, made from the vocabulary inside oss-harmony, without a network.
Does not know: checkpoints, servers, chat templates (token ids or plain text are sent, never chats).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from gptoss_backend.harmony.vocabulary import (
    ENDOFTEXT,
    FIRST_SPECIAL,
    RETURN,
    STARTOFTEXT,
    VOCAB_SIZE,
    encoding,
    token_bytes,
)

_UPPER: Final = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER: Final = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SHORT: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
# tiktoken's o200k_base, written as there: llama.cpp knows the vocabulary by what this splits
_PATTERN: Final = "|".join(
    (
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_SHORT}",
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_SHORT}",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)


def write_tokenizer(folder: Path) -> None:
    """Write the tokenizer's files to `folder`. Takes several seconds."""
    ranks = {token_bytes(token): token for token in range(FIRST_SPECIAL)}
    letters = _letter_by_byte()
    spelling = {raw: "".join(letters[byte] for byte in raw) for raw in ranks}
    merges = [(spelling[left], spelling[right]) for left, right in _merges(ranks)]
    tokenizer = Tokenizer(BPE({spelling[raw]: rank for raw, rank in ranks.items()}, merges, ignore_merges=True))
    split = pre_tokenizers.Split(Regex(_PATTERN), behavior="isolated")
    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytewise])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    names = [_special_name(token) for token in range(FIRST_SPECIAL, VOCAB_SIZE)]
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in names])
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=_special_name(STARTOFTEXT),
        eos_token=_special_name(RETURN),
        pad_token=_special_name(ENDOFTEXT),
        model_max_length=131_072,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)


def single_token_words() -> list[int]:
    """Return ids of words of four to eight small letters with the space before them.

    Their texts, joined in any order, are encoded as just these ids: so a prompt of ids can also be sent as text.
    """
    return [token for token in range(FIRST_SPECIAL) if _is_word(token_bytes(token))]


def _is_word(raw: bytes) -> bool:
    return raw[:1] == b" " and 5 <= len(raw) <= 9 and raw[1:].isalpha() and raw[1:].islower()


def _merges(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Return every way in which a token is made of two, by the token's rank, then by the parts' ranks."""
    merges: list[tuple[bytes, bytes]] = []
    for raw in ranks:  # in the order of their ranks
        ways = [(raw[:cut], raw[cut:]) for cut in range(1, len(raw)) if raw[:cut] in ranks and raw[cut:] in ranks]
        merges += sorted(ways, key=lambda way: (ranks[way[0]], ranks[way[1]]))
    return merges


def _special_name(token: int) -> str:
    text: str = encoding().decode([token])
    return text


def _letter_by_byte() -> dict[int, str]:
    """Return the letters that stand for bytes in a byte-level vocabulary, GPT-2's: printable ones for themselves."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    shifted = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + index) for index, byte in enumerate(shifted)}
