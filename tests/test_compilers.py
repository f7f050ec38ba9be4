"""How the figures of compilers are read off a compiled program; tests/accelerators has the compilers themselves."""

from types import SimpleNamespace

from benchmarks import compilers

PROGRAM = """HloModule jit_f

%inner (a: f32[4]) -> f32[4] {
  %dot.1 = f32[4] dot(%a, %a), backend_config={"estimated_cycles":"7"}
  ROOT %fusion.2 = f32[4] fusion(%dot.1), calls=%fused, backend_config={"estimated_cycles":"5"}
}

%condition (a: s32[]) -> pred[] {
  %limit = s32[] constant(6)
  ROOT %less = pred[] compare(%a, %limit), direction=LT
}

%outer (a: f32[4]) -> f32[4] {
  %w.1 = f32[4] while(%a), condition=%condition, body=%inner
  ROOT %copy.1 = f32[4] copy(%w.1), backend_config={"estimated_cycles":"2"}
}

ENTRY %main (x: f32[4]) -> f32[4] {
  %t = f32[4] transpose(%x), backend_config={"estimated_cycles":"100"}
  %b = f32[4] bitcast(%t)
  ROOT %w.2 = f32[4] while(%b), condition=%c2, body=%outer, backend_config={"known_trip_count":{"n":"3"}}
}
"""
COMPILED = SimpleNamespace(as_text=lambda: PROGRAM)


def test_loops_count_as_often_as_they_turn():
    assert compilers.kernels_launched(COMPILED) == 1 + 3 * (6 * 2 + 1)
    assert compilers.expected_cycles(COMPILED) == 100 + 3 * (6 * 12 + 2)


def test_memory_of_one_device():
    sizes = SimpleNamespace(
        argument_size_in_bytes=10, output_size_in_bytes=7, alias_size_in_bytes=3, temp_size_in_bytes=100
    )
    assert compilers.peak_bytes(SimpleNamespace(memory_analysis=lambda: sizes)) == 114
