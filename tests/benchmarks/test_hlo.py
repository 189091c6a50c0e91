"""The counts of a compiled module's text, against sums by hand and against what XLA itself counts."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks.hlo import Array, arrays, count, parse

# As XLA prints modules for a GPU: a fusion that slices, a convolution by cuDNN, a loop that turns five times.
MODULE = """HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[8,4]{1,0})->f32[8,4]{1,0}}

FileNames
1 "/a (b)/c.py"

%fused_slice (param_0: bf16[2,8,8,16], param_1: f32[]) -> (bf16[2,8,8,4], f32[]) {
  %param_1 = f32[] parameter(1)
  %param_0 = bf16[2,8,8,16]{3,2,1,0} parameter(0)
  %slice.1 = bf16[2,8,8,4]{3,2,1,0} slice(%param_0), slice={[0:2], [0:8], [0:8], [0:4]}
  ROOT %tuple.9 = (bf16[2,8,8,4]{3,2,1,0}, f32[]) tuple(%slice.1, %param_1)
}

%body (carried: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %carried = (s32[], f32[8,4]{1,0}) parameter(0)
  %k = s32[] get-tuple-element(%carried), index=0
  %kept = f32[8,4]{1,0} get-tuple-element(%carried), index=1
  %row = f32[1,4]{1,0} dynamic-slice(%kept, %k, %k), dynamic_slice_sizes={1,4}
  %new = f32[8,4]{1,0} dynamic-update-slice(%kept, %row, %k, %k)
  ROOT %again = (s32[], f32[8,4]{1,0}) tuple(%k, %new)
}

%condition (carried.1: (s32[], f32[8,4])) -> pred[] {
  %carried.1 = (s32[], f32[8,4]{1,0}) parameter(0)
  %k.1 = s32[] get-tuple-element(%carried.1), index=0
  %five = s32[] constant(5)
  ROOT %less = pred[] compare(%k.1, %five), direction=LT
}

%gemm (param_0.2: f32[6,32], param_1.2: f32[32,4]) -> f32[6,4] {
  %param_0.2 = f32[6,32]{1,0} parameter(0)
  %param_1.2 = f32[32,4]{1,0} parameter(1)
  ROOT %dot.1 = f32[6,4]{1,0} dot(%param_0.2, %param_1.2), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main (x: bf16[2,8,8,16], w: bf16[3,3,16,32], s: f32[], a: f32[6,32], b: f32[32,4]) -> (f32[8,4], f32[6,4]) {
  %x = bf16[2,8,8,16]{3,2,1,0} parameter(0), metadata={op_name="x (films)"}
  %w = bf16[32,3,3,16]{3,2,1,0} parameter(1)
  %s = f32[] parameter(2)
  %a = f32[6,32]{1,0} parameter(3)
  %b = f32[32,4]{1,0} parameter(4)
  %conv = (bf16[2,8,8,32]{3,2,1,0}, u8[64]{0}) custom-call(%x, %w), dim_labels=b01f_o01i->b01f, FORWARD
  %y = bf16[2,8,8,32]{3,2,1,0} get-tuple-element(%conv), index=0
  %taken = (bf16[2,8,8,4]{3,2,1,0}, /*index=1*/f32[]) fusion(%x, %s), calls=%fused_slice, metadata={op_name="a (b"}
  %product = f32[6,4]{1,0} fusion(%a, %b), kind=kCustom, calls=%gemm
  %zero = s32[] constant(0)
  %begin = f32[8,4]{1,0} broadcast(%s), dimensions={}
  %all-reduce-start.1 = f32[8,4]{1,0} all-reduce-start(%begin), channel_id=1, replica_groups={{0,1}}, to_apply=%add
  %all-reduce-done.1 = f32[8,4]{1,0} all-reduce-done(%all-reduce-start.1)
  %first = (s32[], f32[8,4]{1,0}) tuple(%zero, %all-reduce-done.1)
  %loop = (s32[], f32[8,4]{1,0}) while(%first), condition=%condition, body=%body, config={"known_trip_count":{"n":"5"}}
  %end = f32[8,4]{1,0} get-tuple-element(%loop), index=1
  ROOT %both = (f32[8,4]{1,0}, f32[6,4]{1,0}) tuple(%end, %product)
}
""".replace("FORWARD", 'custom_call_target="__cudnn$convForward"')


def test_a_module_by_hand() -> None:
    counts = count(MODULE)
    x, w, y, part = 2 * 8 * 8 * 16 * 2, 32 * 3 * 3 * 16 * 2, 2 * 8 * 8 * 32 * 2, 2 * 8 * 8 * 4 * 2
    convolution, product = x + w + y, 4 * (6 * 32 + 32 * 4 + 6 * 4)  # cuDNN's scratch of 64 bytes is no result
    broadcast, reduced, row = 4 + 128, 128 + 128, 16
    iteration = (row + row + 4) + (row + row + 4) + (4 + 4 + 1)  # slice, update, condition; of the index 4 bytes
    assert counts.bytes == convolution + (part + part + 4 + 4) + product + broadcast + reduced + 5 * iteration
    whole_turn = (128 + row + 4) + (128 + 128 + row + 4) + (4 + 4 + 1)
    assert counts.whole_bytes == convolution + (x + part + 4 + 4) + product + broadcast + reduced + 5 * whole_turn
    assert counts.kernels == 5 + 5 * 3
    assert counts.flops == 2 * (2 * 8 * 8 * 32) * (3 * 3 * 16) + 2 * 6 * 32 * 4
    assert counts.collectives == [("all-reduce", 128)]
    assert counts.calls == {"__cudnn$convForward": 1}
    assert counts.dots == [(6, 4)]
    assert counts.loops == [5]


def test_of_what_is_sliced_later_a_kernel_reads_the_slice() -> None:
    """Also where each element is first worked on by itself, in two ways that meet again, and a slice is sliced."""
    fused = """
  %param_0.3 = f32[8,16]{1,0} parameter(0)
  %param_1.3 = f32[8,16]{1,0} parameter(1)
  %twice = f32[8,16]{1,0} add(%param_0.3, %param_0.3)
  %both = f32[8,16]{1,0} multiply(%twice, %param_0.3)
  %early = f32[8,12]{1,0} slice(%both), slice={[0:8], [0:12]}
  %late = f32[8,4]{1,0} slice(%early), slice={[0:8], [8:12]}
  ROOT %out = f32[8,4]{1,0} add(%late, %other)
}
"""
    text = (
        "HloModule m\n\n%f (param_0.3: f32[8,16], param_1.3: f32[8,16]) -> f32[8,4] {"
        + fused.replace("%other", "%sum").replace("  ROOT", "  %sum = f32[8,4]{1,0} reduce(%param_1.3)\n  ROOT")
        + "\nENTRY %main (x: f32[8,16], y: f32[8,16]) -> f32[8,4] {\n  %x = f32[8,16]{1,0} parameter(0)\n"
        "  %y = f32[8,16]{1,0} parameter(1)\n  ROOT %z = f32[8,4]{1,0} fusion(%x, %y), kind=kLoop, calls=%f\n}\n"
    )
    assert count(text).bytes == 4 * (8 * 4 + 8 * 16 + 8 * 4)
    assert count(text).whole_bytes == 4 * (8 * 16 + 8 * 16 + 8 * 4)


def test_a_loop_of_unknown_length_counts_once() -> None:
    known, unknown = count(MODULE), count(MODULE.replace(', config={"known_trip_count":{"n":"5"}}', ""))
    assert unknown.loops == [None]
    assert known.kernels - unknown.kernels == 4 * 3


@pytest.mark.parametrize(
    ("target", "operands", "result"),
    [
        ("convBackwardInput", "%y, %w", "bf16[2,8,8,16]{3,2,1,0}"),
        ("convBackwardFilter", "%x, %y", "bf16[32,3,3,16]{3,2,1,0}"),
    ],
)
def test_gradients_of_a_convolution_cost_what_it_costs(target: str, operands: str, result: str) -> None:
    gradient = (
        f"  %gradient = ({result}, u8[0]{{0}}) custom-call({operands}), window={{size=3x3 pad=1_1x1_1}}, "
        f'dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn${target}"\n'
    )
    text = MODULE.replace("  %taken =", gradient + "  %taken =")
    assert count(text).flops - count(MODULE).flops == 2 * (2 * 8 * 8 * 32) * (3 * 3 * 16)


def test_shapes() -> None:
    assert arrays("(bf16[2,3]{1,0:T(8,128)(2,1)S(1)}, /*index=1*/f32[], (pred[7], s4[3]))") == (
        Array("bf16", (2, 3), 1),
        Array("f32", ()),
        Array("pred", (7,)),
        Array("s4", (3,)),
    )
    assert [array.bytes for array in arrays("(bf16[2,3]{1,0:S(1)}, f8e4m3fn[3], f32[], s4[3], u64[2])")] == [
        0, 3, 4, 2, 16,
    ]  # fmt: skip


def test_a_text_without_an_entry_is_refused() -> None:
    with pytest.raises(ValueError, match="ENTRY"):
        parse("HloModule nothing")


def test_flops_are_those_that_xla_counts() -> None:
    def program(x: jax.Array, kernel: jax.Array, matrix: jax.Array) -> jax.Array:
        y = jax.lax.conv_general_dilated(x, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return y @ matrix

    arguments = jnp.zeros((2, 9, 9, 8)), jnp.zeros((3, 3, 8, 16)), jnp.zeros((16, 32))
    compiled = jax.jit(program).lower(*arguments).compile()
    counted, places = count(compiled.as_text()).flops, 2 * 4 * 4
    assert counted == 2 * places * 16 * (3 * 3 * 8) + 2 * places * 16 * 32
    assert counted == pytest.approx(compiled.cost_analysis()["flops"], rel=0.01)
