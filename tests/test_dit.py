"""The transformer: names, text and time, chunks, precision and training."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from pixelwizard.config.backbone import DiTSizes
from pixelwizard.models.attention.exact import attention
from pixelwizard.models.wan.dit import WanDiT, patchify, unpatchify
from pixelwizard.models.wan.kernels import Rotary, compiled, rotate
from pixelwizard.models.wan.streaming import BlockStream
from pixelwizard.planning.device import META, Trace

SIZES = DiTSizes(
    in_dim=4,
    out_dim=4,
    dim=64,
    ffn_dim=96,
    freq_dim=32,
    text_dim=8,
    text_len=6,
    num_heads=2,
    num_layers=2,
)
TIME = torch.tensor([900.0, 100.0])


@pytest.fixture
def network() -> WanDiT:
    """A network whose head is not zero."""
    torch.manual_seed(0)
    network = WanDiT(SIZES)
    torch.nn.init.normal_(network.head.head.weight, std=0.3)
    return network


def latents() -> Tensor:
    return torch.randn(2, 4, 2, 8, 12, generator=torch.Generator().manual_seed(1))


def texts() -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(n, 8, generator=generator) for n in (3, 6)]


@torch.no_grad()
def test_a_new_network_predicts_zero_velocity() -> None:
    network = WanDiT(SIZES)
    assert not network(latents(), TIME, network.encode_text(texts())).any()


@torch.no_grad()
def test_samples_of_a_batch_do_not_touch_each_other(network: WanDiT) -> None:
    together = network(latents(), TIME, network.encode_text(texts()))
    for i in range(2):
        text = network.encode_text(texts()[i : i + 1])
        alone = network(latents()[i : i + 1], TIME[i : i + 1], text)
        assert torch.allclose(alone[0], together[i], atol=1e-5)


@torch.no_grad()
def test_short_texts_are_zero_padded(network: WanDiT) -> None:
    short = torch.randn(3, 8)
    padded = torch.cat((short, torch.zeros(3, 8)))
    for first, second in zip(
        network.encode_text([short]).blocks, network.encode_text([padded]).blocks, strict=True
    ):
        assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert network.encode_text([torch.zeros(0, 8)]).blocks[0][0].shape == (1, 6, 2, 32)


@torch.no_grad()
@pytest.mark.parametrize("chunk", [1, 7, 17, 47, 48])
def test_chunks_of_tokens_change_nothing(network: WanDiT, chunk: int) -> None:
    whole = network(latents(), TIME, network.encode_text(texts()))
    network.chunk = chunk
    chunked = network(latents(), TIME, network.encode_text(texts()))
    assert torch.allclose(chunked, whole, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("chunk", [1, 7, 17, 47])
@pytest.mark.parametrize("times", [1, 2])
def test_a_head_at_a_time_changes_nothing(network: WanDiT, chunk: int, times: int) -> None:
    time = TIME if times == 1 else torch.stack((0 * TIME, TIME), dim=1)
    whole = network(latents(), time, network.encode_text(texts()))
    network._rotary.clear()
    network.chunk, network.lean, network.text_on_host = chunk, True, True
    for _ in range(2):
        lean = network(latents(), time, network.encode_text(texts()))
        assert torch.allclose(lean, whole, atol=1e-5) and not torch.equal(lean, 0 * lean)


@torch.no_grad()
def test_a_head_at_a_time_needs_no_keys_and_values_of_the_others() -> None:
    sizes = DiTSizes(dim=384, num_heads=6, ffn_dim=1792, num_layers=1, text_dim=64, out_dim=4)
    peaks = []
    for lean in (False, True):
        with META:
            network = WanDiT(sizes).bfloat16().requires_grad_(False)
            latent, text = torch.empty(1, 48, 7, 64, 64), torch.empty(512, 64)
            network.chunk, network.lean = 64, lean
            keys_values = network.encode_text([text])
            with Trace() as trace:
                network(latent, torch.empty(1), keys_values)
        peaks.append(trace.peak)
    tokens, channels, heads = 7 * 32 * 32, 384, 6
    keys_and_values, queries = 2 * 2 * channels, 2 * channels
    angles = 4 * channels // heads
    saved = tokens * (keys_and_values - queries - keys_and_values // heads + angles)
    assert saved < peaks[0] - peaks[1] < saved + tokens * angles  # putting angles together


@torch.no_grad()
def test_streamed_blocks_use_the_chosen_functions(network: WanDiT) -> None:
    network.requires_grad_(False).stream_from_host(torch.device("cpu"), asynchronous=False)
    network.use(compiled())
    assert network._stream is not None
    assert all(slot.kernels is compiled() for slot in network._stream.slots)
    assert all(slot.self_attn.kernels is compiled() for slot in network._stream.slots)


@torch.no_grad()
def test_a_bfloat16_residual_stream_stays_close(network: WanDiT) -> None:
    whole = network(latents(), TIME, network.encode_text(texts()))
    network.residual = torch.bfloat16
    rounded = network(latents(), TIME, network.encode_text(texts()))
    assert 0 < (rounded - whole).abs().max() < 0.02 * whole.abs().max()
    network.chunk = 17
    chunked = network(latents(), TIME, network.encode_text(texts()))
    assert (chunked - rounded).abs().max() < 0.01 * whole.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("layers", [1, 2, 5])
def test_streamed_blocks_give_the_same_bits(layers: int) -> None:
    torch.manual_seed(0)
    network = WanDiT(replace(SIZES, num_layers=layers)).requires_grad_(False)
    torch.nn.init.normal_(network.head.head.weight, std=0.3)
    expected = network(latents(), TIME, network.encode_text(texts()))
    network.stream_from_host(torch.device("cpu"), asynchronous=False)
    for _ in range(2):  # the second forward refills the buffers
        streamed = network(latents(), TIME, network.encode_text(texts()))
        assert torch.equal(streamed, expected)


def test_the_last_copy_is_awaited_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    awaited: list[str] = []
    stream = BlockStream([torch.nn.Linear(2, 2) for _ in range(3)], torch.device("cpu"), False)
    monkeypatch.setattr(stream, "_send", lambda index: None)
    copies = SimpleNamespace(synchronize=lambda: awaited.append("awaited"))
    monkeypatch.setattr(stream, "_copies", copies)
    with pytest.raises(RuntimeError, match="out of memory"):
        for _ in stream:
            raise RuntimeError("out of memory")
    assert awaited == ["awaited"]


def test_written_out_attention_equals_the_fused_kernel() -> None:
    query, key, value = (torch.randn(2, 7, 3, 8, requires_grad=True) for _ in range(3))
    trained = attention(query, key, value)
    with torch.no_grad():
        assert torch.allclose(attention(query, key, value), trained, atol=1e-6)


def test_rotation_depends_on_relative_positions_alone() -> None:
    table = Rotary((3, 4, 5), 32, torch.device("cpu"), slice(0, 60)).table(0, 60)
    query, key = torch.randn(2, 1, 1, 1, 32).expand(2, 1, 60, 1, 32)
    rotated_query, rotated_key = rotate(query, table), rotate(key, table)
    scores = (rotated_query[0, :, 0] @ rotated_key[0, :, 0].T).view(3, 4, 5, 3, 4, 5)
    assert torch.allclose(scores[2, 3, 4, 1, 1, 1], scores[1, 2, 3, 0, 0, 0], atol=1e-4)
    assert torch.allclose(scores[0, 0, 0, 0, 0, 0], (query[0, 0] * key[0, 0]).sum(), atol=1e-4)
    assert torch.allclose(rotated_query.norm(dim=-1), query.norm(dim=-1), atol=1e-4)


@pytest.mark.parametrize(("start", "stop"), [(0, 7), (13, 14), (31, 60)])
def test_angles_of_a_span_are_those_of_the_whole(start: int, stop: int) -> None:
    rotary = Rotary((3, 4, 5), 32, torch.device("cpu"), slice(0, 60))
    assert torch.equal(rotary.table(start, stop), rotary.table(0, 60)[start:stop])


def test_patches_hold_channels_first_and_come_back() -> None:
    latent = torch.arange(2 * 3 * 2 * 4 * 6.0).view(2, 3, 2, 4, 6)
    tokens = patchify(latent)
    assert torch.equal(tokens[0, 0].view(3, 2, 2), latent[0, :, 0, :2, :2])
    channels_last = tokens.unflatten(2, (3, 2, 2)).permute(0, 1, 3, 4, 2).flatten(2)
    assert torch.equal(unpatchify(channels_last, (2, 2, 3)), latent)


def test_every_parameter_is_trained(network: WanDiT) -> None:
    network(latents(), TIME, network.encode_text(texts())).square().mean().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


def test_gradient_follows_the_loss(network: WanDiT) -> None:
    """The directional derivative from autograd against a finite difference, in float32."""
    weight = network.blocks[0].self_attn.q.weight
    text = texts()

    def loss() -> Tensor:
        return network(latents(), TIME, network.encode_text(text)).square().mean()

    loss().backward()
    direction = weight.grad / weight.grad.norm()
    values = []
    with torch.no_grad():
        for sign in (1, -1):
            weight += sign * 0.05 * direction
            values.append(loss().item())
            weight -= sign * 0.05 * direction
    slope = (values[0] - values[1]) / 0.1
    assert slope == pytest.approx(weight.grad.norm().item(), rel=0.05)


def test_validation_in_inference_mode_leaves_training_possible(network: WanDiT) -> None:
    with torch.inference_mode():
        network(latents(), TIME, network.encode_text(texts()))
    network(latents(), TIME, network.encode_text(texts())).sum().backward()


@pytest.mark.parametrize("way", ["weights", "autocast"])
def test_bfloat16_stays_close_and_the_velocity_is_float32(network: WanDiT, way: str) -> None:
    with torch.no_grad():
        expected = network(latents(), TIME, network.encode_text(texts()))
    if way == "weights":
        network.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=way == "autocast"):
        actual = network(latents(), TIME, network.encode_text(texts()))
        actual.square().mean().backward()
    assert actual.dtype == torch.float32
    assert (actual - expected).abs().max() < 0.03 * expected.abs().max()


def test_rotary_tables_are_kept_for_few_grids(network: WanDiT) -> None:
    text = network.encode_text([torch.zeros(0, 8)])
    with torch.no_grad():
        for frames in range(1, 8):
            network(torch.zeros(1, 4, frames, 4, 4), TIME[:1], text)
    assert 1 <= len(network._rotary) <= 4


def test_full_size_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        network = WanDiT(replace(DiTSizes(), num_layers=1))
    block = sum(p.numel() for p in network.blocks[0].parameters())
    total = sum(p.numel() for p in network.parameters()) + 29 * block
    assert block / 1e6 == pytest.approx(163.7, abs=0.2)
    assert total / 1e9 == pytest.approx(5.0, abs=0.01)
