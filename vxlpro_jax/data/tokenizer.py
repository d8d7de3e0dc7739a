"""Text to token ids and back, from a folder's tokenizer files; and the making of the embedded model's own tokenizer.

Source: SPEC 12 (quirk 11). The embedded tokenizer is a byte-level BPE with Qwen2.5's special tokens and chat template.
Differs: Qwen2.5 splits numbers into single digits; the embedded one into pieces of two, all of which are tokens, so
that a time is written in two tokens.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from vxlpro_jax.data import synthetic, synthetic_questions
from vxlpro_jax.vocabulary import END_OF_TEXT, IM_END, IM_START, SYSTEM_PROMPT

TOKENIZER_FILE = "tokenizer.json"
_TOKENIZERS_ERROR: type[Exception] = Exception  # tokenizers raises Exception itself, and no kind of it
# Qwen2.5's own rule with {1,2} after \p{N}.
SPLIT_RULE = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,2}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL_TOKENS = (
    END_OF_TEXT,
    IM_START,
    IM_END,
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
PLAIN_ADDED_TOKENS = (
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
)
CHAT_TEMPLATE = (
    "{%- if messages[0]['role'] != 'system' -%}"
    "{{- '<|im_start|>system\\n" + SYSTEM_PROMPT + "<|im_end|>\\n' -}}"
    "{%- endif -%}"
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


class TextTokenizer:
    """Ids of text, and text of ids; special tokens written in the text become their ids."""

    def __init__(self, backend: Tokenizer):
        self._backend = backend

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included; a model's embedding table may be padded beyond it."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> list[int]:
        return self._backend.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Text of the ids; ids beyond the vocabulary (padding of the embedding table) are left out."""
        size = self.vocab_size
        return self._backend.decode([int(i) for i in ids if i < size], skip_special_tokens=skip_special_tokens)


def load_tokenizer(folder: str | Path) -> TextTokenizer:
    """The tokenizer of a model folder: tokenizer.json, or vocab.json with merges.txt.

    Raises FileNotFoundError when the folder holds neither, ValueError when the file is no tokenizer.
    """
    folder = Path(folder)
    file = folder / TOKENIZER_FILE
    if file.is_file():
        text = file.read_text(encoding="utf-8")
        try:
            json.loads(text)
            return TextTokenizer(Tokenizer.from_str(text))
        except _TOKENIZERS_ERROR as error:
            if type(error) not in (_TOKENIZERS_ERROR, json.JSONDecodeError):
                raise
            raise ValueError(f"{file}: not a tokenizer file ({error})") from error
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        from transformers import AutoTokenizer  # slow to import, and needed for the older file layout only

        return TextTokenizer(AutoTokenizer.from_pretrained(str(folder)).backend_tokenizer)
    raise FileNotFoundError(
        f"{folder}: no {TOKENIZER_FILE}, and no vocab.json with merges.txt: copy the model's tokenizer there."
    )


def build_tiny_tokenizer() -> Tokenizer:
    """The embedded tokenizer: every word of the generated world's questions and every number of two digits is one
    token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_RULE), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,  # never reached: training ends when every word is one token
        min_frequency=1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL_TOKENS])
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in PLAIN_ADDED_TOKENS])
    return tokenizer


def released_ids(tokenizer: TextTokenizer) -> dict[str, int]:
    """What config.json of the released layout says of a tokenizer."""
    return {"eos_token_id": tokenizer.encode(IM_END)[0], "pad_token_id": tokenizer.encode(END_OF_TEXT)[0]}


def save_tiny_tokenizer(folder: str | Path) -> TextTokenizer:
    """Write tokenizer.json and tokenizer_config.json of the embedded model; transformers' AutoTokenizer reads them
    too."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tiny_tokenizer()
    tokenizer.save(str(folder / TOKENIZER_FILE))
    config = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "bos_token": None,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": IM_END,
        "errors": "replace",
        "model_max_length": 32768,
        "pad_token": END_OF_TEXT,
        "split_special_tokens": False,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return TextTokenizer(tokenizer)


def _corpus() -> list[str]:
    """All that the embedded model reads or says, spelled out."""
    templates: list[str] = []
    for name, value in vars(synthetic_questions).items():
        if name.endswith("_TEMPLATES"):
            groups = value.values() if isinstance(value, dict) else [value]
            templates += [text for group in groups for text in group]
    lines = [f"system\n{SYSTEM_PROMPT}\nuser\nassistant\n"]
    for text in templates:
        for spelling in (text, text.replace("colour", "color")):
            lines += [spelling, spelling[0].lower() + spelling[1:], spelling.rstrip("?.")]
    names = (
        *synthetic.SHAPES,
        *synthetic.COLOURS,
        *synthetic.DIRECTIONS,
        "shape",
        "digit",
        "card",
        "number",
        "t",
        "at",
        "s",
    )
    lines += [f"{name}\nthe {name}" for name in names]
    lines += [f"{first}{second}" for first in range(10) for second in range(10)]
    return lines * 4
