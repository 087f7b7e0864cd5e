"""Weights in one flat buffer of host memory, and blocks that pass from there."""

from __future__ import annotations

import gc
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from pixelwizard.config.backbone import DiTSizes
from pixelwizard.models.wan import streaming
from pixelwizard.models.wan.dit import Block
from pixelwizard.models.wan.quantised import quantise_linears
from pixelwizard.models.wan.streaming import BlockStream, Packed, packed_bytes, viewing

CPU = torch.device("cpu")


class Mixed(nn.Module):
    """Weights of several types and sizes, one of which lies with its channels last."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        conv = torch.randn(4, 3, 3, 3).contiguous(memory_format=torch.channels_last)
        weights = {
            "odd": torch.randn(7).bfloat16(),  # 14 bytes
            "bytes": torch.randint(-9, 9, (5, 3), dtype=torch.int8),  # 15 bytes
            "small": torch.randn(2, 2).to(torch.float8_e4m3fn),  # 4 bytes
            "conv": conv,  # 432 bytes
            "whole": torch.randn(64),  # 256 bytes
        }
        for name, weight in weights.items():
            setattr(self, name, nn.Parameter(weight, requires_grad=False))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """What CUDA is asked to register: its name, the address and the bytes."""
    found: list[tuple[str, int, int]] = []

    def register(address: int, size: int, flags: int) -> int:
        found.append(("register", address, size))
        return 0

    def unregister(address: int) -> int:
        found.append(("unregister", address, 0))
        return 0

    cudart = SimpleNamespace(cudaHostRegister=register, cudaHostUnregister=unregister)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: cudart)
    return found


def test_a_flat_buffer_has_the_bytes_of_its_aligned_weights() -> None:
    block = Mixed()
    assert packed_bytes(block) == 256 + 256 + 256 + 512 + 256
    assert Packed(block, pinned=False).flat.nbytes == 1536
    addresses = [weight.data_ptr() for weight in block.parameters()]
    assert [a - addresses[0] for a in addresses] == [0, 256, 512, 768, 1280]
    assert addresses[0] % 4096 == 0


def test_packed_weights_keep_their_values_types_and_strides() -> None:
    block, expected = Mixed(), Mixed()
    packed = Packed(block, pinned=False)
    copied = viewing(block, packed.flat.clone())
    for module in (block, copied):
        for own, other in zip(module.parameters(), expected.parameters(), strict=True):
            assert own.dtype == other.dtype and own.stride() == other.stride()
            assert torch.equal(own.float(), other.float())
    assert copied.odd.data_ptr() != block.odd.data_ptr()


def test_a_block_of_full_size_takes_its_weights_and_no_more() -> None:
    with torch.device("meta"):
        block = Block(DiTSizes()).to(torch.bfloat16)
        small = Block(DiTSizes()).to(torch.bfloat16)
        network = nn.ModuleDict({"blocks": nn.ModuleList([small])})
    quantise_linears(network, "fp8")
    weights = sum(weight.nbytes for weight in block.parameters())
    assert 0 <= packed_bytes(block) - weights < 256 * len(list(block.parameters()))
    assert packed_bytes(block) == 327_313_408 and packed_bytes(small) == 163_819_520
    powers = sum(1 << (weight.nbytes - 1).bit_length() for weight in block.parameters())
    assert round(30 * powers / 1e9, 1) == 16.1 and round(30 * packed_bytes(block) / 1e9, 1) == 9.8


def test_a_buffer_is_registered_once_at_its_size_until_it_is_dropped(
    calls: list[tuple[str, int, int]],
) -> None:
    packed = [Packed(Mixed(seed), pinned=True) for seed in range(2)]
    places = [one.flat.data_ptr() for one in packed]
    assert calls == [("register", place, 1536) for place in places]
    del packed[0]
    gc.collect()
    assert calls[2:] == [("unregister", places[0], 0)]
    del packed
    gc.collect()
    assert calls[3:] == [("unregister", places[1], 0)]


def test_pages_belong_to_one_buffer_alone() -> None:
    packed = [Packed(nn.Linear(3, 3), pinned=False) for _ in range(50)]
    pages = sorted(one.flat.data_ptr() // streaming.mmap.PAGESIZE for one in packed)
    assert len(set(pages)) == 50


def test_memory_that_cannot_be_locked_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    refusing = SimpleNamespace(cudaHostRegister=lambda *inputs: 2)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: refusing)
    with pytest.raises(ValueError, match="could not lock 1536 bytes .*use memory=resident"):
        Packed(Mixed(), pinned=True)


def test_blocks_pass_through_two_buffers_with_one_copy_each() -> None:
    blocks = [Mixed(seed) for seed in range(5)]
    stream = BlockStream(blocks, CPU, asynchronous=False)
    passed = []
    for own, slot in zip(blocks, stream, strict=True):
        passed.append(slot)
        for expected, found in zip(own.parameters(), slot.parameters(), strict=True):
            assert torch.equal(found.float(), expected.float())
            assert found.stride() == expected.stride()
    assert [stream.slots.index(slot) for slot in passed] == [0, 1, 0, 1, 0]
    assert [buffer.nbytes for buffer in stream.buffers] == [1536, 1536]


def test_blocks_of_other_weights_are_refused() -> None:
    sizes = replace(DiTSizes(), dim=32, ffn_dim=64, num_heads=4)
    with pytest.raises(ValueError, match="blocks of different weights"):
        BlockStream([Block(sizes), Block(replace(sizes, ffn_dim=32))], CPU, False)
