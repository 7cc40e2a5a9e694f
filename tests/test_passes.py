"""What each pass does, as text before and after. Every pair is also evaluated: a pass changes no value."""

from __future__ import annotations

import textwrap

import numpy as np
import pytest

import tracegrad.ir.ops  # noqa: F401  (defines the primitives)
from tracegrad.ir.evaluate import evaluate
from tracegrad.ir.parser import parse
from tracegrad.ir.program import Program
from tracegrad.ir.verify import verify
from tracegrad.transforms.dead_code import remove_dead_code
from tracegrad.transforms.duplicates import merge_common
from tracegrad.transforms.hoist import hoist_invariants
from tracegrad.transforms.inline import inline_calls
from tracegrad.transforms.narrow import narrow_loops
from tracegrad.transforms.simplify import simplify
from tracegrad.transforms.steps import share_steps


def arguments(program: Program) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [np.asarray(rng.normal(size=t.shape) * 3).astype(t.dtype) for t in program.in_types]


def check(transform, before: str, after: str) -> None:  # type: ignore[no-untyped-def]
    old = verify(parse(textwrap.dedent(before)))
    new = verify(transform(old))
    assert str(new) == textwrap.dedent(after).strip()
    again = transform(new)
    assert again == new, "the pass is not idempotent"
    args = arguments(old)
    for a, b in zip(evaluate(old, *args), evaluate(new, *args), strict=True):
        np.testing.assert_array_equal(a, b)


SIMPLIFICATIONS = {
    "multiplication by one": ("%0: f32[3] = mul %x, 1.0: f32[]", "%x"),
    "multiplication by minus one": ("%0: f32[3] = mul -1.0: f32[], %x", "%0: f32[3] = neg %x"),
    "double negation": ("%1: f32[3] = neg %x\n%0: f32[3] = neg %1", "%1: f32[3] = neg %x", "%x"),
    "subtraction of zero": ("%0: f32[3] = sub %x, 0.0: f32[]", "%x"),
    "addition of a negative zero": ("%0: f32[3] = add %x, -0.0: f32[]", "%x"),
    "addition of a zero keeps the sign of negative zeros": ("%0: f32[3] = add %x, 0.0: f32[]", "%0: f32[3] = add %x, 0.0: f32[]"),
    "division by one": ("%0: f32[3] = div %x, 1.0: f32[]", "%x"),
    "integer_pow 2": ("%0: f32[3] = integer_pow %x {y=2}", "%0: f32[3] = square %x"),
    "conversion to the same dtype": ("%0: f32[3] = convert_element_type %x {new_dtype=f32, weak=false}", "%x"),
    "reshape of a reshape": (
        "%1: f32[1,3] = reshape %x {new_sizes=(1, 3)}\n%0: f32[3] = reshape %1 {new_sizes=(3,)}",
        "%1: f32[1,3] = reshape %x {new_sizes=(1, 3)}",
        "%x",
    ),
    "a sum over axes of size one": (
        "%1: f32[1,3] = reshape %x {new_sizes=(1, 3)}\n%0: f32[3] = reduce_sum %1 {axes=(0,)}",
        "%1: f32[1,3] = reshape %x {new_sizes=(1, 3)}",
        "%x",
    ),
    "literals fold": (
        "%1: f32[] = sin 0.0: f32[]\n%2: f32[] = add %1, 2.0: f32[]\n%0: f32[3] = mul %x, %2",
        "%0: f32[3] = mul %x, 2.0: f32[]",
    ),
    "a broadcast scalar stays a scalar": (
        "%1: f32[3] = broadcast_in_dim 2.0: f32[] {broadcast_dimensions=(), shape=(3,)}\n%0: f32[3] = mul %x, %1",
        "%1: f32[3] = broadcast_in_dim 2.0: f32[] {broadcast_dimensions=(), shape=(3,)}\n%0: f32[3] = mul %x, 2.0: f32[]",
    ),
    "adding a negation subtracts": (
        "%1: f32[3] = neg %x\n%0: f32[3] = add %x, %1",
        "%1: f32[3] = neg %x\n%0: f32[3] = sub %x, %x",
    ),
    "a select between equals": (
        "%1: bool[3] = lt %x, 0.0: f32[]\n%0: f32[3] = select %1, %x, %x",
        "%1: bool[3] = lt %x, 0.0: f32[]",
        "%x",
    ),
}


def lines(text: str) -> str:
    return textwrap.indent(text, "  ")


@pytest.mark.parametrize("name", SIMPLIFICATIONS)
def test_simplify_rewrites(name: str) -> None:
    before, *after = SIMPLIFICATIONS[name]
    result = "%0" if after[-1].startswith("%") and "=" in after[-1] else after[-1]
    body = "\n".join(lines(a) for a in after if "=" in a)
    head = "program @f(%x: f32[3]) -> (f32[3]) {\n"
    old = verify(parse(head + lines(before) + "\n  return %0\n}"))
    new = verify(simplify(old))
    want = parse(head + (body + "\n" if body else "") + f"  return {result}\n}}")
    assert new == want, f"{new}\nexpected\n{want}"
    x = np.array([-0.0, 1.5, np.nan], np.float32)
    for a, b in zip(evaluate(old, x), evaluate(new, x), strict=True):
        np.testing.assert_array_equal(a, b)
        if not name.startswith("a sum"):
            np.testing.assert_array_equal(np.signbit(a[:2]), np.signbit(b[:2]))


def test_merge_common_shares_equal_equations_and_sees_through_the_order_of_operands() -> None:
    check(
        merge_common,
        """
        program @f(%x: f32[3], %y: f32[3]) -> (f32[3]) {
          %0: f32[3] = add %x, %y
          %1: f32[3] = add %y, %x
          %2: f32[3] = sin %0
          %3: f32[3] = sin %1
          %4: f32[3] = mul %2, %3
          return %4
        }""",
        """
        program @f(%x: f32[3], %y: f32[3]) -> (f32[3]) {
          %0: f32[3] = add %x, %y
          %1: f32[3] = sin %0
          %2: f32[3] = mul %1, %1
          return %2
        }""",
    )


def test_dead_code_goes_and_takes_unused_parts_of_loops_along() -> None:
    check(
        remove_dead_code,
        """
        program @f(%x: f32[], %xs: f32[4], %w: f32[]) -> (f32[]) {
          %0: f32[] = exp %x
          %a: f32[], %b: f32[], %ys: f32[4] = scan const(%w) carry(%x, %0) xs(%xs) {length=4, reverse=false, unroll=1}
            body @body const(%v: f32[]) carry(%c: f32[], %d: f32[]) xs(%s: f32[]) {
              %1: f32[] = add %c, %s
              %2: f32[] = mul %d, %v
              yield %1, %2, %2
            }
          return %a
        }""",
        """
        program @f(%x: f32[], %xs: f32[4], %w: f32[]) -> (f32[]) {
          %a: f32[] = scan const() carry(%x) xs(%xs) {length=4, reverse=false, unroll=1}
            body @body const() carry(%c: f32[]) xs(%s: f32[]) {
              %0: f32[] = add %c, %s
              yield %0
            }
          return %a
        }""",
    )


def test_hoist_computes_what_does_not_change_before_the_loop() -> None:
    check(
        hoist_invariants,
        """
        program @f(%w: f32[3], %x: f32[3]) -> (f32[3]) {
          %y: f32[3] = scan const(%w) carry(%x) xs() {length=5, reverse=false, unroll=1}
            body @body const(%v: f32[3]) carry(%c: f32[3]) xs() {
              %0: f32[3] = tanh %v
              %1: f32[3] = mul %c, %0
              yield %1
            }
          return %y
        }""",
        """
        program @f(%w: f32[3], %x: f32[3]) -> (f32[3]) {
          %0: f32[3] = tanh %w
          %y: f32[3] = scan const(%w, %0) carry(%x) xs() {length=5, reverse=false, unroll=1}
            body @body const(%v: f32[3], %1: f32[3]) carry(%c: f32[3]) xs() {
              %2: f32[3] = mul %c, %1
              yield %2
            }
          return %y
        }""",
    )


def test_narrowing_makes_a_constant_of_a_carry_that_never_changes() -> None:
    check(
        narrow_loops,
        """
        program @f(%w: f32[3], %x: f32[3]) -> (f32[3], f32[3]) {
          %a: f32[3], %b: f32[3] = scan const() carry(%w, %x) xs() {length=5, reverse=false, unroll=1}
            body @body const() carry(%c: f32[3], %d: f32[3]) xs() {
              %0: f32[3] = mul %c, %d
              yield %c, %0
            }
          return %a, %b
        }""",
        """
        program @f(%w: f32[3], %x: f32[3]) -> (f32[3], f32[3]) {
          %b: f32[3] = scan const(%w) carry(%x) xs() {length=5, reverse=false, unroll=1}
            body @body const(%c: f32[3]) carry(%d: f32[3]) xs() {
              %0: f32[3] = mul %c, %d
              yield %0
            }
          return %w, %b
        }""",
    )


def test_narrowing_leaves_one_of_what_is_equal_and_takes_results_that_are_operands_from_outside() -> None:
    check(
        narrow_loops,
        """
        program @f(%x: f32[4], %w: f32[]) -> (f32[], f32[], f32[4], f32[4], f32[4], f32[4]) {
          %a: f32[], %b: f32[], %p: f32[4], %q: f32[4], %r: f32[4], %s: f32[4] = scan const(%w, 2.0: f32[], %w) carry(1.0: f32[], 1.0: f32[]) xs(%x, %x) {length=4, reverse=false, unroll=1}
            body @body const(%v: f32[], %n: f32[], %u: f32[]) carry(%c: f32[], %d: f32[]) xs(%e: f32[], %g: f32[]) {
              %0: f32[] = mul %c, %n
              %1: f32[] = add %0, %e
              %2: f32[] = mul %d, 2.0: f32[]
              %3: f32[] = add %2, %g
              %4: f32[] = mul %u, %c
              yield %1, %3, %g, %v, %4, %4
            }
          return %a, %b, %p, %q, %r, %s
        }""",
        """
        program @f(%x: f32[4], %w: f32[]) -> (f32[], f32[], f32[4], f32[4], f32[4], f32[4]) {
          %a: f32[], %r: f32[4] = scan const(%w) carry(1.0: f32[]) xs(%x) {length=4, reverse=false, unroll=1}
            body @body const(%v: f32[]) carry(%c: f32[]) xs(%e: f32[]) {
              %0: f32[] = mul %c, 2.0: f32[]
              %1: f32[] = add %0, %e
              %2: f32[] = mul %v, %c
              yield %1, %2
            }
          %q: f32[4] = broadcast_in_dim %w {broadcast_dimensions=(), shape=(4,)}
          return %a, %a, %x, %q, %r, %r
        }""",
    )


def test_narrowing_makes_constants_of_what_a_while_does_not_change() -> None:
    check(
        narrow_loops,
        """
        program @f(%x: f32[3], %n: f32[]) -> (f32[], f32[3], f32[]) {
          %a: f32[], %b: f32[3], %c: f32[] = while cond_const() body_const() carry(0.0: f32[], %x, %n)
            cond @test cond_const() carry(%0: f32[], %1: f32[3], %2: f32[]) {
              %3: bool[] = lt %0, %2
              yield %3
            }
            body @body body_const() carry(%4: f32[], %5: f32[3], %6: f32[]) {
              %7: f32[] = reduce_max %5 {axes=(0,)}
              %8: f32[] = abs %7
              %9: f32[] = add %4, %8
              %10: f32[] = add %9, 1.0: f32[]
              yield %10, %5, %6
            }
          return %a, %b, %c
        }""",
        """
        program @f(%x: f32[3], %n: f32[]) -> (f32[], f32[3], f32[]) {
          %a: f32[] = while cond_const(%n) body_const(%x) carry(0.0: f32[])
            cond @test cond_const(%0: f32[]) carry(%1: f32[]) {
              %2: bool[] = lt %1, %0
              yield %2
            }
            body @body body_const(%3: f32[3]) carry(%4: f32[]) {
              %5: f32[] = reduce_max %3 {axes=(0,)}
              %6: f32[] = abs %5
              %7: f32[] = add %4, %6
              %8: f32[] = add %7, 1.0: f32[]
              yield %8
            }
          return %a, %x, %n
        }""",
    )


def test_narrowing_takes_results_on_which_all_branches_agree_from_outside() -> None:
    check(
        narrow_loops,
        """
        program @f(%i: i32[], %x: f32[3]) -> (f32[3], f32[], f32[3], f32[3]) {
          %a: f32[3], %b: f32[], %c: f32[3], %d: f32[3] = cond %i, %x, %x
            branches[0] @no(%0: f32[3], %1: f32[3]) {
              %2: f32[3] = sin %0
              yield %0, 2.0: f32[], %2, %2
            }
            branches[1] @yes(%3: f32[3], %4: f32[3]) {
              %5: f32[3] = cos %4
              yield %4, 2.0: f32[], %5, %5
            }
          return %a, %b, %c, %d
        }""",
        """
        program @f(%i: i32[], %x: f32[3]) -> (f32[3], f32[], f32[3], f32[3]) {
          %c: f32[3] = cond %i, %x
            branches[0] @no(%0: f32[3]) {
              %1: f32[3] = sin %0
              yield %1
            }
            branches[1] @yes(%2: f32[3]) {
              %3: f32[3] = cos %2
              yield %3
            }
          return %x, 2.0: f32[], %c, %c
        }""",
    )


def test_narrowing_replaces_a_loop_of_one_step_by_its_body() -> None:
    check(
        narrow_loops,
        """
        program @f(%x: f32[], %t: f32[1]) -> (f32[], f32[1]) {
          %a: f32[], %b: f32[1] = scan const() carry(%x) xs(%t) {length=1, reverse=false, unroll=1}
            body @body const() carry(%c: f32[]) xs(%s: f32[]) {
              %0: f32[] = add %c, %s
              yield %0, %c
            }
          return %a, %b
        }""",
        """
        program @f(%x: f32[], %t: f32[1]) -> (f32[], f32[1]) {
          %s: f32[] = reshape %t {new_sizes=()}
          %0: f32[] = add %x, %s
          %b: f32[1] = reshape %x {new_sizes=(1,)}
          return %0, %b
        }""",
    )


def test_narrowing_makes_a_constant_of_slices_that_are_alike() -> None:
    check(
        narrow_loops,
        """
        program @f(%x: f32[], %w: f32[3]) -> (f32[4,3]) {
          %0: f32[4,3] = broadcast_in_dim %w {broadcast_dimensions=(1,), shape=(4, 3)}
          %1: f32[4] = broadcast_in_dim 2.0: f32[] {broadcast_dimensions=(), shape=(4,)}
          %a: f32[], %b: f32[4,3] = scan const() carry(%x) xs(%0, %1) {length=4, reverse=true, unroll=1}
            body @body const() carry(%c: f32[]) xs(%s: f32[3], %t: f32[]) {
              %2: f32[] = mul %c, %t
              %3: f32[3] = mul %s, %c
              yield %2, %3
            }
          return %b
        }""",
        """
        program @f(%x: f32[], %w: f32[3]) -> (f32[4,3]) {
          %0: f32[4,3] = broadcast_in_dim %w {broadcast_dimensions=(1,), shape=(4, 3)}
          %1: f32[4] = broadcast_in_dim 2.0: f32[] {broadcast_dimensions=(), shape=(4,)}
          %a: f32[], %b: f32[4,3] = scan const(%w) carry(%x) xs() {length=4, reverse=true, unroll=1}
            body @body const(%s: f32[3]) carry(%c: f32[]) xs() {
              %2: f32[] = mul %c, 2.0: f32[]
              %3: f32[3] = mul %s, %c
              yield %2, %3
            }
          return %b
        }""",
    )


def test_what_a_step_computes_of_its_last_carry_is_not_computed_again_of_the_first() -> None:
    check(
        share_steps,
        """
        program @f(%x: f32[3], %w: f32[]) -> (f32[3]) {
          %a: f32[3] = scan const(%w) carry(%x) xs() {length=5, reverse=false, unroll=1}
            body @body const(%v: f32[]) carry(%c: f32[3]) xs() {
              %0: f32[3] = sin %c
              %1: f32[3] = mul %0, %v
              %2: f32[3] = add %c, %1
              %3: f32[3] = sin %2
              %4: f32[3] = mul %3, %c
              %5: f32[3] = sub %2, %4
              %6: f32[3] = sin %5
              %7: f32[3] = mul %6, 0.0: f32[]
              %8: f32[3] = add %5, %7
              yield %5
            }
          return %a
        }""",
        """
        program @f(%x: f32[3], %w: f32[]) -> (f32[3]) {
          %0: f32[3] = sin %x
          %a: f32[3], %1: f32[3] = scan const(%w) carry(%x, %0) xs() {length=5, reverse=false, unroll=1}
            body @body const(%v: f32[]) carry(%c: f32[3], %2: f32[3]) xs() {
              %3: f32[3] = mul %2, %v
              %4: f32[3] = add %c, %3
              %5: f32[3] = sin %4
              %6: f32[3] = mul %5, %c
              %7: f32[3] = sub %4, %6
              %8: f32[3] = sin %7
              yield %7, %8
            }
          return %a
        }""",
    )


def test_carries_that_two_steps_share_are_stacked_once() -> None:
    check(
        share_steps,
        """
        program @f(%x: f32[]) -> (f32[]) {
          %a: f32[], %p: f32[4], %q: f32[4] = scan const() carry(%x) xs() {length=4, reverse=false, unroll=1}
            body @body const() carry(%c: f32[]) xs() {
              %0: f32[] = sin %c
              yield %0, %c, %0
            }
          %b: f32[] = scan const() carry(%a) xs(%p, %q) {length=4, reverse=true, unroll=1}
            body @back const() carry(%d: f32[]) xs(%s: f32[], %t: f32[]) {
              %1: f32[] = mul %d, %s
              %2: f32[] = add %1, %t
              yield %2
            }
          %e: f32[] = scan const() carry(%b) xs(%q) {length=4, reverse=true, unroll=1}
            body @back const() carry(%g: f32[]) xs(%h: f32[]) {
              %3: f32[] = mul %g, %h
              yield %3
            }
          return %e
        }""",
        """
        program @f(%x: f32[]) -> (f32[]) {
          %a: f32[], %p: f32[4] = scan const() carry(%x) xs() {length=4, reverse=false, unroll=1}
            body @body const() carry(%c: f32[]) xs() {
              %0: f32[] = sin %c
              yield %0, %c
            }
          %b: f32[], %1: f32[] = scan const() carry(%a, %a) xs(%p) {length=4, reverse=true, unroll=1}
            body @back const() carry(%d: f32[], %t: f32[]) xs(%s: f32[]) {
              %2: f32[] = mul %d, %s
              %3: f32[] = add %2, %t
              yield %3, %s
            }
          %e: f32[], %4: f32[] = scan const() carry(%b, %a) xs(%p) {length=4, reverse=true, unroll=1}
            body @back const() carry(%g: f32[], %h: f32[]) xs(%5: f32[]) {
              %6: f32[] = mul %g, %h
              yield %6, %5
            }
          return %e
        }""",
    )


def test_inline_replaces_calls_and_removes_wrappers() -> None:
    check(
        inline_calls,
        """
        program @f(%x: f32[3]) -> (f32[3]) {
          %0: f32[3] = call %x {inline=false, name="g"}
            program @g(%y: f32[3]) {
              %1: f32[3] = stop_gradient %y
              %2: f32[3] = sin %1
              yield %2
            }
          %3: f32[3] = call %0 {inline=false, name="g"}
            program @g(%y_2: f32[3]) {
              %4: f32[3] = sin %y_2
              yield %4
            }
          return %3
        }""",
        """
        program @f(%x: f32[3]) -> (f32[3]) {
          %0: f32[3] = sin %x
          %1: f32[3] = sin %0
          return %1
        }""",
    )


def test_a_branch_that_is_known_replaces_the_cond() -> None:
    program = parse(
        textwrap.dedent("""
        program @f(%x: f32[3]) -> (f32[3]) {
          %0: f32[3] = cond 1: i32[], %x
            branches[0] @no(%a: f32[3]) {
              yield %a
            }
            branches[1] @yes(%b: f32[3]) {
              %1: f32[3] = exp %b
              yield %1
            }
          return %0
        }""")
    )
    new = verify(inline_calls(simplify(verify(program))))
    assert [e.primitive.name for e in new.equations] == ["exp"]


def test_the_verifier_names_the_equation_that_is_wrong() -> None:
    from tracegrad.ir.verify import VerifyError

    good = parse("program @f(%x: f32[3]) -> (f32[3]) { %0: f32[3] = sin %x\n return %0 }")
    x, eqn = good.inputs[0], good.equations[0]
    with pytest.raises(VerifyError, match="bound twice"):
        verify(good.replace(equations=[eqn, eqn]))
    with pytest.raises(VerifyError, match="used before it is bound"):
        verify(good.replace(inputs=[]))
    wrong = parse("program @f(%x: f32[3], %y: f32[2]) -> (f32[3]) { %0: f32[3] = sin %x\n return %0 }")
    bad = wrong.equations[0].replace(inputs=[wrong.inputs[1]])
    with pytest.raises(VerifyError, match=r"sin gives \(f32\[2\],\) but its results are declared \(f32\[3\],\)"):
        verify(wrong.replace(equations=[bad]))
    assert x.type.shape == (3,)
