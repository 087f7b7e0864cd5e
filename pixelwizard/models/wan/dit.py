"""The diffusion transformer of Wan2.2-TI2V-5B (Wan-Video/Wan2.2 ``wan/modules/model.py``).

Parameters carry their official names. Linears and attention run in the dtype of the weights;
norms, modulation, the time embedding, the head and the residual stream are float32.

Without gradients a long sequence passes every layer in chunks of tokens. Only the residual stream
and, inside a block, keys and values are whole. Every chunk size gives the same result.

A sample has one time, or two: that of the tokens of its first latent frame (0 where the frame is
given, as in image to video), and that of the others. Each has its own vector of modulation.

Letters of shapes: B samples, C latent channels, T H W the latent grid, L tokens (T * H/2 * W/2,
frame-major), E model channels, N heads, D channels of a head, R times of a sample (1 or 2).
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Callable, Iterable, Iterator, NamedTuple, Sequence, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import is_autocast_available
from torch.utils.checkpoint import checkpoint

from pixelwizard.config.backbone import DiTSizes
from pixelwizard.config.geometry import PATCH
from pixelwizard.models.attention.base import Attention, Grid, Place
from pixelwizard.models.attention.exact import Exact, attention
from pixelwizard.models.wan.kernels import PLAIN, Kernels, Rotary, linear
from pixelwizard.models.wan.quantised import outputs_of

if TYPE_CHECKING:
    from pixelwizard.models.wan.streaming import BlockStream
    from pixelwizard.parallel.exchange import Ulysses

Attend = Callable[..., Tensor]
"""The self-attention of one layer: (queries, keys, values, first query = 0) -> [B, L, N, D]."""
Addition = Callable[[slice], Tensor]
"""What is added to the tokens of a span as they enter a block: slice -> [B, span, E]."""

CHUNK = 8192
"""Tokens that go through a layer together when no gradients are needed, unless told otherwise."""
PAIRED = {"cpu": 768, "cuda": CHUNK}
"""Both passes of a guided step are one batch up to this many tokens, by the type of device.

A processor is 1.2 times as fast with both at 200 tokens each, and hardly faster from 520 on
(``tiny``, ``measure/both_passes.py``). On an H200 the matrix products of 3,472 tokens of
Wan2.2-TI2V-5B, in tiles of 128x256, take an eighth less time in one batch, by count.
"""
WIDE = 2
"""Chunks that go together through what has the size of a single head."""
LOOK = 1024
"""The most tokens that ``first_change`` compares."""


@dataclass(frozen=True)
class TextKeyValues:
    """Keys and values of a batch of prompts for the cross-attention of every block.

    One pair of [B, text_len, N, D] tensors per block; constant over the steps of a video.
    """

    blocks: tuple[tuple[Tensor, Tensor], ...]

    def sample(self, index: int) -> TextKeyValues:
        """One of the prompts, in the same memory."""
        one = slice(index, index + 1)
        return TextKeyValues(tuple((keys[one], values[one]) for keys, values in self.blocks))


class WanDiT(nn.Module):
    """Velocity of a latent video at a timestep, given a text.

    ``chunk``: tokens that go through a layer together without gradients. ``paired``: the most
    tokens of both guidance passes that are one batch. ``residual``: the type of the residual
    stream between the blocks; bfloat16 halves it and rounds once per block. ``lean`` saves memory
    and costs a little time: keys and values exist for one head at a time, rotary angles only where
    they are needed. ``text_on_host``: the keys and values of the text stay in host memory.
    ``stream_from_host`` leaves the weights of the blocks in host memory. ``checkpointing``: with
    gradients a block is computed a second time instead of keeping what is inside it. ``ulysses``:
    the ranks that share the tokens of a pass, each of which gets the whole latent and gives the
    whole velocity; only without gradients. ``sigma``: where the sampler's step starts, for an
    attention that differs from step to step; None in training.
    """

    entrances: tuple[str, ...] = ("encode_text",)
    """Methods besides ``forward`` that use weights and are called from outside."""
    takes_step_size = False
    """Whether ``forward`` takes a step size after the text."""

    def __init__(self, sizes: DiTSizes) -> None:
        super().__init__()
        self.sizes = sizes
        dim = sizes.dim
        self.patch_embedding = nn.Conv3d(
            sizes.in_dim, dim, kernel_size=(1, PATCH, PATCH), stride=(1, PATCH, PATCH)
        )
        self.text_embedding = nn.Sequential(
            nn.Linear(sizes.text_dim, dim), nn.GELU("tanh"), nn.Linear(dim, dim)
        )
        self.time_embedding = time_mlp(sizes.freq_dim, dim)
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList(Block(sizes) for _ in range(sizes.num_layers))
        self.head = Head(sizes)
        self.attention: Attention = Exact()
        self.sigma: float | None = None
        self.chunk = CHUNK
        self.paired = PAIRED["cpu"]
        self.lean = self.text_on_host = False
        self.residual = torch.float32
        self.checkpointing = False
        self.ulysses: Ulysses | None = None
        self._stream: BlockStream | None = None
        self._rotary: dict[tuple[Grid, torch.device], Rotary] = {}
        self._looking = False
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The official initialisation: xavier linears, small embeddings, a head of zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patch_embedding.weight.flatten(1))
        for embedding in (self.text_embedding, self.time_embedding):
            for layer in (embedding[0], embedding[2]):
                nn.init.normal_(layer.weight, std=0.02)
        nn.init.zeros_(self.head.head.weight)

    def encode_text(self, embeddings: Sequence[Tensor]) -> TextKeyValues:
        """Keys and values of every block, once per batch of prompts.

        ``embeddings``: one [L_i, text_dim] tensor per prompt, 0 <= L_i <= text_len. Positions
        past the end of a prompt are zeros and attended to, as in the official model.
        """
        weight = self.text_embedding[0].weight
        padded = weight.new_zeros(len(embeddings), self.sizes.text_len, self.sizes.text_dim)
        for row, embedding in zip(padded, embeddings, strict=True):
            row[: len(embedding)] = embedding
        context = self.text_embedding(padded)
        place = torch.device("cpu") if self.text_on_host else context.device
        pairs = (block.text_keys_values(context) for block in self._each_block())
        return TextKeyValues(tuple((keys.to(place), values.to(place)) for keys, values in pairs))

    def stream_from_host(self, device: torch.device, asynchronous: bool) -> None:
        """Move all but the blocks to ``device``; the blocks stay in host memory and pass through.

        ``asynchronous`` copies the next block while one computes (CUDA). The results are the same
        bits as with all weights on the device.
        """
        for name, child in self.named_children():
            if name != "blocks":
                child.to(device)
        from pixelwizard.models.wan.streaming import BlockStream

        self._stream = BlockStream(list(self.blocks), device, asynchronous)

    def use(self, kernels: Kernels) -> None:
        """Use these functions, plain or compiled, for all that lies between the attentions."""
        passing = [] if self._stream is None else self._stream.slots
        for module in chain.from_iterable(whole.modules() for whole in (self, *passing)):
            if isinstance(module, (Block, Projections, Head)):
                module.kernels = kernels

    def _each_block(self) -> Iterable[Block]:
        """The blocks in order, on the device; a streamed one only until the next is taken."""
        return cast(Iterable[Block], self._stream or self.blocks)

    def forward(self, latent_BCTHW: Tensor, timestep: Tensor, text: TextKeyValues) -> Tensor:
        """Velocity, float32 [B, C, T, H, W].

        ``timestep`` in [0, 1000]: [B], or [B, 2] for the first latent frame and the others.
        """
        return self.denoise(latent_BCTHW, self.embed_time(timestep), text)

    def embed_time(self, timestep: Tensor) -> Tensor:
        """Time embeddings, float32: [B] -> [B, E], [B, 2] -> [B, 2, E]."""
        sines = sinusoid(timestep.flatten(), self.sizes.freq_dim)
        return in_float32(self.time_embedding, sines.unflatten(0, timestep.shape))

    def denoise(
        self,
        latent_BCTHW: Tensor,
        time: Tensor,
        text: TextKeyValues,
        additions: Sequence[dict[int, Addition]] = (),
    ) -> Tensor:
        """Velocity given the time embeddings [B, E] or [B, 2, E].

        ``additions`` has a dictionary for each time: its entry k is added to the tokens of block k.
        """
        grid = (
            latent_BCTHW.shape[2],
            latent_BCTHW.shape[3] // PATCH,
            latent_BCTHW.shape[4] // PATCH,
        )
        x = self._embed_patches(latent_BCTHW)
        ulysses, rotary = self.ulysses, self._rotary_of(grid, x.device)
        time_BRE = time if time.ndim == 3 else time.unsqueeze(1)
        border = self._border(grid) if time_BRE.shape[1] > 1 else 0
        modulation = in_float32(self.time_projection, time_BRE).unflatten(2, (6, -1))
        blocks = zip(self._each_block(), text.blocks, strict=True)
        for index, (block, keys_values) in enumerate(blocks):
            if additions and index in additions[0]:
                x = self._add(x, [own[index] for own in additions], border)
            attend = partial(_attend, self.attention, Place(grid, index, sigma=self.sigma))
            here = (keys_values[0].to(x.device), keys_values[1].to(x.device))
            inputs = (x, modulation, rotary, here, self.chunk, ulysses, attend, border, self.lean)
            if self._looking:
                return self._change(x, grid, partial(block, *inputs))
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, *inputs, use_reentrant=False)
            else:
                x = block(*inputs)
        patches = self.head(x, time_BRE, self.chunk, border)
        if ulysses is not None:
            patches = ulysses.gather(patches, math.prod(grid))
        return unpatchify(patches, grid)

    @torch.no_grad()
    def first_change(self, *inputs: Any) -> Tensor:
        """What the first block adds to some tokens, float32 [B, <= LOOK, E], equal on all ranks.

        ``inputs`` are those of ``forward``; no other block runs.
        """
        self._looking = True
        try:
            change: Tensor = self(*inputs)
        finally:
            self._looking = False
        return change

    def _change(self, x: Tensor, grid: Grid, block: Callable[[], Tensor]) -> Tensor:
        """What ``block`` adds to every n-th token of the grid."""
        own, every = self.own_tokens(grid), -(-math.prod(grid) // LOOK)
        mine = slice(-own.start % every, None, every)
        before = x[:, mine].float().clone()
        change = block()[:, mine].float() - before
        if self.ulysses is None:
            return change
        total = change.new_zeros(len(x), -(-math.prod(grid) // every), x.shape[2])
        first = -(-own.start // every)
        total[:, first : first + change.shape[1]] = change
        return self.ulysses.sum(total)

    def own_tokens(self, grid: Grid) -> slice:
        """The tokens of this rank: all of them unless others share the pass."""
        length = math.prod(grid)
        return slice(0, length) if self.ulysses is None else self.ulysses.own(length)

    def _border(self, grid: Grid) -> int:
        """How many of this rank's tokens are of the first latent frame."""
        own, first = self.own_tokens(grid), grid[1] * grid[2]
        return min(max(first - own.start, 0), own.stop - own.start)

    def _embed_patches(self, latent_BCTHW: Tensor) -> Tensor:
        """Own tokens [B, L, E] of the residual stream; the strided convolution as a linear."""
        weight, bias = self.patch_embedding.weight.flatten(1), self.patch_embedding.bias
        patches = patchify(latent_BCTHW)
        if self.ulysses is not None:
            patches = patches[:, self.ulysses.own(patches.shape[1])]
        patches = patches.to(weight.dtype)
        if torch.is_grad_enabled():
            return F.linear(patches, weight, bias).to(self.residual)
        shape = (*patches.shape[:2], self.sizes.dim)
        x = torch.empty(shape, dtype=self.residual, device=patches.device)
        for span in spans(x.shape[1], self.chunk):
            x[:, span] = F.linear(patches[:, span], weight, bias)
        return x

    def _add(self, x: Tensor, additions: Sequence[Addition], border: int) -> Tensor:
        """``x`` plus the addition of each token's time; without gradients in place."""

        def added(span: slice) -> Tensor:
            return additions[0 if span.start < border else -1](span)

        length = x.shape[1]
        if torch.is_grad_enabled():
            return x + joined([added(span) for span in spans(length, length, border)])
        for span in spans(length, self.chunk, border):
            x[:, span] = x[:, span].float() + added(span)
        return x

    def _rotary_of(self, grid: Grid, device: torch.device) -> Rotary:
        """The rotary angles of a grid, kept for the last few grids."""
        key = (grid, device)
        if key not in self._rotary:
            if len(self._rotary) >= 4:
                self._rotary.clear()
            head_dim = self.sizes.dim // self.sizes.num_heads
            own = self.own_tokens(grid)
            self._rotary[key] = Rotary(grid, head_dim, device, own, kept=not self.lean)
        return self._rotary[key]


def _attend(
    attention: Attention, place: Place, query: Tensor, key: Tensor, value: Tensor, start: int = 0
) -> Tensor:
    attended = attention(query, key, value, replace(place, start=start))
    if attended.shape != query.shape:
        raise ValueError(
            f"{type(attention).__name__} returned a tensor of {list(attended.shape)}; it must be"
            f" {list(query.shape)}, like the queries"
        )
    return attended


class _Around(NamedTuple):
    """What the tokens of a pass meet in a block."""

    rotary: Rotary
    six: Modulation
    text: tuple[Tensor, Tensor]
    attend: Attend
    chunk: int

    def spans(self, x: Tensor, chunks: int = 1) -> Iterator[slice]:
        """All tokens [B, L, E], so many ``chunks`` together."""
        return spans(x.shape[1], chunks * self.chunk, self.six.border)


class Block(nn.Module):
    """Self-attention, cross-attention to the text and a feed-forward, modulated by the time."""

    def __init__(self, sizes: DiTSizes) -> None:
        super().__init__()
        dim = sizes.dim
        self.eps = sizes.eps
        self.norm3 = nn.LayerNorm(dim, sizes.eps)
        self.self_attn = Projections(dim, sizes.num_heads, sizes.eps)
        self.cross_attn = Projections(dim, sizes.num_heads, sizes.eps)
        self.ffn = nn.Sequential(
            nn.Linear(dim, sizes.ffn_dim), nn.GELU("tanh"), nn.Linear(sizes.ffn_dim, dim)
        )
        self.modulation = nn.Parameter(torch.randn(1, 6, dim) / math.sqrt(dim))
        self.kernels = PLAIN

    def forward(
        self,
        x: Tensor,
        modulation_BR6E: Tensor,
        rotary: Rotary,
        text: tuple[Tensor, Tensor],
        chunk: int = CHUNK,
        ulysses: Ulysses | None = None,
        attend: Attend | None = None,
        border: int = 0,
        lean: bool = False,
    ) -> Tensor:
        """Tokens [B, L, E] of the residual stream -> the same.

        Tokens before ``border`` have the first time's modulation, the others the last one's.
        Without gradients a sequence longer than ``chunk`` is processed in chunks of tokens and
        ``x`` is overwritten: a chunk needs its own tokens and the keys and values of all; a
        ``lean`` block has those of one head at a time.
        """
        six = Modulation(self.modulation.float() + modulation_BR6E, border)
        attend = attend or partial(_attend, Exact(), Place(rotary.grid, 0))
        here = _Around(rotary, six, text, attend, chunk)
        if ulysses is not None:
            return self._after(x, self._with_others(x, ulysses, here), here)
        if torch.is_grad_enabled() or x.shape[1] <= chunk:
            return self._whole(x, here)
        if lean:
            return self._after(x, self._head_by_head(x, here), here)
        shape = (*x.shape[:2], self.self_attn.heads, x.shape[2] // self.self_attn.heads)
        keys, values = (self.norm3.weight.new_empty(shape) for _ in range(2))
        for span in here.spans(x):
            hidden, table = self._entering(x, span, here)
            keys[:, span], values[:, span] = self.self_attn.keys_values(hidden, table)
            del hidden, table
        for span in here.spans(x):
            x[:, span] = self._chunk(x, keys, values, span, here)
        return x

    def _whole(self, x: Tensor, here: _Around) -> Tensor:
        """``forward`` for all tokens together; their linears run once for each time."""
        parts = list(spans(x.shape[1], x.shape[1], here.six.border))
        attended = self._attended(x, parts, here)
        return joined([self._branches(x, attended[:, part], part, here) for part in parts])

    def _attended(self, x: Tensor, parts: list[slice], here: _Around) -> Tensor:
        """The branch of the self-attention, before its gate; nothing else stays alive."""
        table = here.rotary.table(0, x.shape[1])
        hidden = joined([self._attention_input(x, part, here) for part in parts])
        keys, values = self.self_attn.keys_values(hidden, table)
        return self.self_attn(hidden, keys, values, table, here.attend)

    def _chunk(self, x: Tensor, keys: Tensor, values: Tensor, span: slice, here: _Around) -> Tensor:
        """The new residual stream of some tokens; nothing else of them stays alive."""
        hidden, table = self._entering(x, span, here)
        attend = partial(here.attend, start=span.start)
        attended = self.self_attn(hidden, keys, values, table, attend)
        return self._branches(x, attended, span, here)

    def _with_others(self, x: Tensor, ulysses: Ulysses, here: _Around) -> Tensor:
        """What the tokens of this rank attend to [B, L, N, D], those of the others among it."""
        assert not torch.is_grad_enabled(), "ranks share a sequence without gradients only"
        packed = ulysses.packed(x, self.self_attn.heads, self.norm3.weight.dtype)
        for span in here.spans(x):
            hidden, table = self._entering(x, span, here)
            ulysses.pack(packed, span, 0, self.self_attn.queries(hidden, table))
            for part, tensor in enumerate(self.self_attn.keys_values(hidden, table), start=1):
                ulysses.pack(packed, span, part, tensor)
            del hidden, table, tensor
        return ulysses.attend(packed, math.prod(here.rotary.grid), here.attend)

    def _head_by_head(self, x: Tensor, here: _Around) -> Tensor:
        """What all tokens attend to [B, L, N, D], with keys and values of one head at a time.

        Queries of all heads wait in the tensor that is returned, where results take their places.
        """
        projections = self.self_attn
        heads, scales = projections.heads, x.new_empty(*x.shape[:2], 1, dtype=torch.float32)
        mixed = self.norm3.weight.new_empty(*x.shape[:2], heads, x.shape[2] // heads)
        for span in here.spans(x):
            hidden, table = self._entering(x, span, here)
            mixed[:, span] = projections.queries(hidden, table)
            scales[:, span] = projections.key_scale(hidden)
            del hidden, table
        keys, values = (torch.empty_like(mixed[:, :, :1]) for _ in range(2))
        for head in range(heads):
            for span in here.spans(x, WIDE):
                hidden, table = self._entering(x, span, here)
                keys[:, span], values[:, span] = projections.keys_values_of(
                    head, hidden, scales[:, span], table
                )
                del hidden, table
            for span in spans(x.shape[1], heads * here.chunk):
                own = mixed[:, span, head : head + 1]
                own.copy_(here.attend(own, keys, values, start=span.start))
        return mixed

    def _after(self, x: Tensor, attended: Tensor, here: _Around) -> Tensor:
        """The residual stream after its three branches, given what its tokens attended to."""
        for span in here.spans(x):
            branch = linear(self.self_attn.o, attended[:, span].flatten(2))
            x[:, span] = self._branches(x, branch, span, here)
        return x

    def text_keys_values(self, context_BSE: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the embedded text for the cross-attention, each [B, S, N, D]."""
        return self.cross_attn.keys_values(context_BSE)

    def _attention_input(self, x: Tensor, span: slice, here: _Around) -> Tensor:
        shift, scale = here.six.of(span)[:2]
        return self.kernels.modulated(x[:, span], shift, scale, self.eps, self.norm3.weight.dtype)

    def _entering(self, x: Tensor, span: slice, here: _Around) -> tuple[Tensor, Tensor]:
        """What some tokens bring into the self-attention, and their rotary angles."""
        hidden = self._attention_input(x, span, here)
        return hidden, here.rotary.table(span.start, span.stop)

    def _branches(self, x: Tensor, attended: Tensor, span: slice, here: _Around) -> Tensor:
        """The three residual branches of some tokens, the first of them given."""
        _, _, gate1, shift2, scale2, gate2 = here.six.of(span)
        kernels, norm, residual, x = self.kernels, self.norm3, x.dtype, x[:, span]
        x, hidden = kernels.after_attention(x, attended, gate1, norm.weight, norm.bias, norm.eps)
        x, hidden = kernels.after_text(
            x, self.cross_attn(hidden, *here.text), shift2, scale2, self.eps
        )
        hidden = linear(self.ffn[2], linear(self.ffn[0], hidden, gelu=True))
        return kernels.after_feed_forward(x, hidden, gate2, residual)


class Projections(nn.Module):
    """Multi-head attention whose queries and keys are RMS-normed over all heads together."""

    def __init__(self, dim: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.o = nn.Linear(dim, dim)
        self.norm_q = nn.RMSNorm(dim, eps)
        self.norm_k = nn.RMSNorm(dim, eps)
        self.kernels = PLAIN

    def keys_values(self, x: Tensor, rotary: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Keys (normed, rotated) and values of tokens [B, S, E], each [B, S, N, D]."""
        values = linear(self.v, x).unflatten(-1, (self.heads, -1))
        return self._heads(linear(self.k, x), self.norm_k, rotary), values

    def forward(
        self,
        x: Tensor,
        keys: Tensor,
        values: Tensor,
        rotary: Tensor | None = None,
        attend: Attend = attention,
    ) -> Tensor:
        """Attends from tokens [B, L, E] to the given keys and values -> [B, L, E]."""
        return linear(self.o, attend(self.queries(x, rotary), keys, values).flatten(2))

    def key_scale(self, x: Tensor) -> Tensor:
        """What the norm of keys, which is over all heads, multiplies each by: float32 [B, S, 1]."""
        return self.kernels.inverse_rms(linear(self.k, x), self.norm_k.eps)

    def keys_values_of(
        self, head: int, x: Tensor, scale: Tensor, rotary: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Keys (normed by ``scale``, rotated) and values of one head, each [B, S, 1, D]."""
        width = x.shape[-1] // self.heads
        own = slice(head * width, (head + 1) * width)
        keys, values = (outputs_of(layer, x, own) for layer in (self.k, self.v))
        keys = self.kernels.scaled_head(keys, scale, self.norm_k.weight[own], rotary)
        return keys, values.unsqueeze(2)

    def queries(self, x: Tensor, rotary: Tensor | None = None) -> Tensor:
        """Queries (normed, rotated) of tokens [B, L, E] -> [B, L, N, D]."""
        return self._heads(linear(self.q, x), self.norm_q, rotary)

    def _heads(self, x: Tensor, norm: nn.RMSNorm, rotary: Tensor | None) -> Tensor:
        return self.kernels.normed_heads(x, norm.weight, norm.eps, self.heads, rotary)


class Head(nn.Module):
    """Modulated norm and the linear from tokens to patches of velocity, in float32."""

    def __init__(self, sizes: DiTSizes) -> None:
        super().__init__()
        self.eps = sizes.eps
        self.head = nn.Linear(sizes.dim, sizes.out_dim * PATCH * PATCH)
        self.modulation = nn.Parameter(torch.randn(1, 2, sizes.dim) / math.sqrt(sizes.dim))
        self.kernels = PLAIN

    def forward(self, x: Tensor, time_BRE: Tensor, chunk: int = CHUNK, border: int = 0) -> Tensor:
        """Tokens [B, L, E] -> float32 [B, L, patch_h * patch_w * C]."""
        pair = Modulation(self.modulation.float() + time_BRE.unsqueeze(2), border)
        length = x.shape[1]
        parts = []
        for span in spans(length, length if torch.is_grad_enabled() else chunk, border):
            shift, scale = pair.of(span)
            hidden = self.kernels.modulated(x[:, span], shift, scale, self.eps, torch.float32)
            parts.append(in_float32(self.head, hidden))
        return joined(parts)


class Modulation:
    """The vectors that modulate tokens: one set for those before ``border``, one for the others.

    ``vectors`` [B, R, N, E] has the N vectors of every time; with one time the border is 0.
    """

    def __init__(self, vectors_BRNE: Tensor, border: int) -> None:
        self.border = border
        self._sets = [own.unsqueeze(2).unbind(1) for own in vectors_BRNE.unbind(1)]

    def of(self, span: slice) -> tuple[Tensor, ...]:
        """The vectors, each [B, 1, E], of a span of tokens on one side of the border."""
        return self._sets[0 if span.start < self.border else -1]


def spans(length: int, chunk: int, border: int = 0) -> Iterator[slice]:
    """The whole of ``length`` in slices of at most ``chunk``, none of them across ``border``."""
    for first, last in ((0, border), (border, length)):
        for start in range(first, last, chunk):
            yield slice(start, min(start + chunk, last))


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Spans of tokens [B, span, ...] side by side."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=1)


def time_mlp(freq_dim: int, dim: int) -> nn.Sequential:
    """The small network behind every sinusoid: Linear, SiLU, Linear."""
    return nn.Sequential(nn.Linear(freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim))


def sinusoid(position_B: Tensor, dim: int) -> Tensor:
    """[cos, sin] of the positions at dim/2 frequencies of base 10000, float32 [B, dim]."""
    half = dim // 2
    exponent = torch.arange(half, dtype=torch.float64, device=position_B.device) / half
    angle = torch.outer(position_B.double(), 10000.0**-exponent)
    return torch.cat((angle.cos(), angle.sin()), dim=1).float()


def in_float32(module: nn.Module, x: Tensor) -> Tensor:
    """Runs a linear, or a sequence of linears and SiLUs, in float32 for weights of any type."""
    if isinstance(module, nn.Sequential):
        for layer in module:
            x = in_float32(layer, x)
        return x
    if not isinstance(module, nn.Linear):
        return module(x)
    kind = x.device.type
    with torch.autocast(kind, enabled=False) if is_autocast_available(kind) else nullcontext():
        return F.linear(x.float(), module.weight.float(), module.bias.float())


def affine_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """LayerNorm with parameters of any type, in float32."""
    weight, bias = norm.weight.float(), norm.bias.float()
    return F.layer_norm(x.float(), x.shape[-1:], weight, bias, norm.eps)


def patchify(latent_BCTHW: Tensor) -> Tensor:
    """-> [B, L, C * patch_h * patch_w], tokens frame-major."""
    x = latent_BCTHW.unflatten(4, (-1, PATCH)).unflatten(3, (-1, PATCH))
    return x.permute(0, 2, 3, 5, 1, 4, 6).flatten(4).flatten(1, 3)


def unpatchify(tokens_BLP: Tensor, grid: Grid) -> Tensor:
    """[B, L, patch_h * patch_w * C] -> [B, C, T, H, W]; ``grid`` counts tokens."""
    x = tokens_BLP.unflatten(2, (PATCH, PATCH, -1)).unflatten(1, grid)
    return x.permute(0, 6, 1, 2, 4, 3, 5).flatten(5).flatten(3, 4)
