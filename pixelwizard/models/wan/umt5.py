"""Text -> embeddings: cleaning, tokenizer, UMT5 encoder, under the official Wan2.2 weight names.

The encoder is transformers' ``UMT5EncoderModel``; transformers takes seconds to import, so it is
imported when an encoder or a tokenizer is made. L_i: number of tokens of text i (<= text_len).
Source of the conventions: Wan2.2 ``t5.py`` and ``tokenizers.py`` (see NOTICE).
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import ftfy
import torch
from torch import Tensor, nn

from pixelwizard.config.backbone import TextSizes
from pixelwizard.io.terminal import reason
from pixelwizard.models.checkpoints import TOKENIZER_CONFIG, check_tokenizer
from pixelwizard.models.wan.layouts import official_names
from pixelwizard.models.wan.quantised import quantise_linears, scale_name

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"


def clean(text: str) -> str:
    """Repair broken Unicode, unescape HTML twice, collapse white space (as Wan2.2 does)."""
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", text).strip()


def load_tokenizer(folder: Path | str) -> PreTrainedTokenizerFast:
    """Load the tokenizer of a folder, without network: ``tokenizer.json``, else ``spiece.model``.

    Raises ValueError if there is none, or if it is broken.
    """
    from transformers import AutoTokenizer

    check_tokenizer(Path(folder))
    if not (Path(folder) / TOKENIZER_CONFIG).is_file():
        raise ValueError(f"no tokenizer in {folder}: {TOKENIZER_CONFIG} is missing there")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # the parsers of broken files have no common error
        raise ValueError(f"the tokenizer in {folder} cannot be read ({reason(error)})") from None
    return cast("PreTrainedTokenizerFast", tokenizer)


def write_word_tokenizer(folder: Path | str, words: Iterable[str]) -> int:
    """Write a tokenizer that knows ``words`` and nothing else; returns the size of its vocabulary.

    Text is lower-cased and split at everything that is neither letter nor digit; ids are <pad> 0,
    </s> 1, <unk> 2, then the words in the given order; </s> ends every text, as in T5.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    entries = [PAD, END, UNKNOWN, *dict.fromkeys(word.lower() for word in words)]
    vocabulary = {entry: index for index, entry in enumerate(entries)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[^\p{L}\p{N}]+"), behavior="removed")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, vocabulary[END])]
    )
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": PAD,
        "eos_token": END,
        "unk_token": UNKNOWN,
        "clean_up_tokenization_spaces": False,
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.add_special_tokens([PAD, END, UNKNOWN])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    return len(vocabulary)


def unknown_words(tokenizer: PreTrainedTokenizerFast, text: str) -> list[str]:
    """Return the words of ``text`` that ``tokenizer`` does not know, each once, in order."""
    text = clean(text)
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    pairs = zip(found["input_ids"], found["offset_mapping"], strict=True)
    spans = [span for token, span in pairs if token == tokenizer.unk_token_id]
    return list(dict.fromkeys(text[start:end] for start, end in spans))


def official_shapes(sizes: TextSizes) -> dict[str, list[int]]:
    """The shape of every weight by official name, known without building the encoder."""
    dim, inner, hidden = sizes.dim, sizes.dim_attn, sizes.dim_ffn
    block = {
        "norm1": [dim],
        "attn.q": [inner, dim],
        "attn.k": [inner, dim],
        "attn.v": [inner, dim],
        "attn.o": [dim, inner],
        "pos_embedding.embedding": [sizes.num_buckets, sizes.num_heads],
        "norm2": [dim],
        "ffn.gate.0": [hidden, dim],
        "ffn.fc1": [hidden, dim],
        "ffn.fc2": [dim, hidden],
    }
    shapes = {"token_embedding.weight": [sizes.vocab_size, dim], "norm.weight": [dim]}
    for layer in range(sizes.num_layers):
        shapes |= {f"blocks.{layer}.{name}.weight": shape for name, shape in block.items()}
    return shapes


def linear_names(sizes: TextSizes) -> set[str]:
    """The official names of the weights of all linears, which are those of the blocks."""
    return {name for name in official_shapes(sizes) if ".attn." in name or ".ffn." in name}


class TextEncoder(nn.Module):
    """UMT5 encoder with its tokenizer."""

    def __init__(self, sizes: TextSizes, tokenizer: PreTrainedTokenizerFast, text_len: int) -> None:
        super().__init__()
        from transformers import UMT5Config, UMT5EncoderModel

        if len(tokenizer) > sizes.vocab_size:
            raise ValueError(
                f"backbone.text.vocab_size={sizes.vocab_size} is smaller than the tokenizer's "
                f"{len(tokenizer)} entries: use the tokenizer that belongs to these weights"
            )
        self.tokenizer = tokenizer
        self.text_len = text_len
        self.model = UMT5EncoderModel(
            UMT5Config(
                vocab_size=sizes.vocab_size,
                d_model=sizes.dim,
                d_kv=sizes.dim_attn // sizes.num_heads,
                d_ff=sizes.dim_ffn,
                num_heads=sizes.num_heads,
                num_layers=sizes.num_layers,
                relative_attention_num_buckets=sizes.num_buckets,
                feed_forward_proj="gated-gelu",
                dropout_rate=0.0,
            )
        )
        self._names = official_names(sizes.num_layers)
        self._streamed_to: torch.device | None = None

    def tokenize(self, texts: Sequence[str]) -> list[Tensor]:
        """Clean and tokenise: one int64 vector [L_i] per text, ending in </s>, truncated."""
        if not texts:
            return []
        tokens = self.tokenizer(
            [clean(text) for text in texts], truncation=True, max_length=self.text_len
        )
        return [torch.tensor(ids) for ids in tokens["input_ids"]]

    def encode(self, ids_L: Tensor) -> Tensor:
        """The embedding [L, dim] of a text's tokens."""
        embedding = self.model.shared
        embedded_BLD = embedding(ids_L[None].to(embedding.weight.device))
        if self._streamed_to is not None:
            embedded_BLD = embedded_BLD.to(self._streamed_to)
        return self.model(inputs_embeds=embedded_BLD).last_hidden_state[0]

    def forward(self, texts: Sequence[str]) -> list[Tensor]:
        """Texts -> embeddings [L_i, dim], one text at a time: none depends on its neighbours."""
        return [self.encode(ids_L) for ids_L in self.tokenize(texts)]

    def stream_from_host(self, device: torch.device, asynchronous: bool) -> None:
        """Compute on ``device``; the blocks stay in host memory and are copied there one by one.

        The embedding, 2 GB at full size, is looked up on the host. ``asynchronous`` copies the next
        block while one computes (CUDA). The results are the same bits as with all on the device.
        """
        stack = self.model.encoder
        from pixelwizard.models.wan.streaming import BlockStream

        stream = BlockStream(list(stack.block), device, asynchronous)
        del stack.block  # a module's place is for modules alone
        stack.block = stream  # type: ignore[assignment]
        stack.final_layer_norm.to(device)
        self._streamed_to = device

    def load_official(self, tensors: Mapping[str, Tensor], quantize: str | None = None) -> None:
        """Load tensors with exactly the official names (KeyError and RuntimeError if not).

        ``quantize``: the linears of the blocks are in 8 bits, and have scales.
        """
        state = {name: tensors[official] for official, name in self._names.items()}
        if quantize is not None:
            quantise_linears(self.model.encoder, quantize)
            scales = {scale_name(name): scale_name(own) for own, name in self._names.items()}
            state |= {name: tensors[own] for name, own in scales.items() if own in tensors}
        state["encoder.embed_tokens.weight"] = state["shared.weight"]
        self.model.load_state_dict(state, strict=True, assign=True)
        self.model.set_input_embeddings(self.model.shared)
