"""Policies of `checkpoint`: functions that say of each operation whether its results may be saved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from tracegrad.ir.calls import PolicyRef
from tracegrad.ir.program import Equation

Policy = Callable[..., Any]


class checkpoint_policies:
    """The policies that `checkpoint` takes: functions `policy(primitive, *types, **params) -> bool`, true for what may be saved.

    Policies are asked about operations, also those inside of scans, branches and nested jits, not about the loops and branches themselves. What a
    few cheap operations make of other saved values is not saved in any case, unless it has a name.
    """

    @staticmethod
    def everything_saveable(*_: Any, **__: Any) -> bool:
        """Save as without checkpoint."""
        return True

    @staticmethod
    def nothing_saveable(*_: Any, **__: Any) -> bool:
        """Save the inputs only. The default."""
        return False

    @staticmethod
    def dots_saveable(prim: Any, *_: Any, **__: Any) -> bool:
        """Save products and convolutions."""
        return prim.name in ("dot_general", "conv_general_dilated")

    checkpoint_dots = dots_saveable

    @staticmethod
    def dots_with_no_batch_dims_saveable(prim: Any, *_: Any, **params: Any) -> bool:
        """Save products without batch dimensions: the layers of a network, not its attention."""
        return prim.name == "dot_general" and not params["dimension_numbers"][1][0]

    checkpoint_dots_with_no_batch_dims = dots_with_no_batch_dims_saveable

    @staticmethod
    def offload_dot_with_no_batch_dims(offload_src: str, offload_dst: str) -> Policy:
        """`dots_with_no_batch_dims_saveable`. Devices have one memory here, so that what would be moved to another one is kept."""
        _check_memories(offload_src, offload_dst)
        return checkpoint_policies.dots_with_no_batch_dims_saveable

    @staticmethod
    def save_only_these_names(*names_which_can_be_saved: str) -> Policy:
        """Save values that `checkpoint_name` gave one of these names."""
        return lambda prim, *_, **params: prim.name == "name" and params["name"] in names_which_can_be_saved

    @staticmethod
    def save_any_names_but_these(*names_not_to_save: str) -> Policy:
        """Save values that have a name, unless it is one of these."""
        return lambda prim, *_, **params: prim.name == "name" and params["name"] not in names_not_to_save

    @staticmethod
    def save_anything_except_these_names(*names_not_to_save: str) -> Policy:
        """Save everything but values with one of these names (whose operands may be saved)."""
        return lambda prim, *_, **params: not (prim.name == "name" and params["name"] in names_not_to_save)

    @staticmethod
    def save_and_offload_only_these_names(
        *,
        names_which_can_be_saved: Sequence[str],
        names_which_can_be_offloaded: Sequence[str],
        offload_src: str,
        offload_dst: str,
    ) -> Policy:
        """Save values with any of these names. Devices have one memory here, so that what would be moved to another one is kept.

        Raises ValueError if a name is among both.
        """
        _check_memories(offload_src, offload_dst)
        both = set(names_which_can_be_saved) & set(names_which_can_be_offloaded)
        if both:
            raise ValueError(
                "The names should be exclusive and should not intersect in `names_which_can_be_saved` and `names_which_can_be_offloaded`. "
                f"Got names_which_can_be_saved={set(names_which_can_be_saved)}, "
                f"names_which_can_be_offloaded={set(names_which_can_be_offloaded)} and the intersection={both}"
            )
        return checkpoint_policies.save_only_these_names(*names_which_can_be_saved, *names_which_can_be_offloaded)

    @staticmethod
    def save_from_both_policies(policy_1: Policy, policy_2: Policy) -> Policy:
        """Save what either policy saves."""
        return lambda prim, *types, **params: policy_1(prim, *types, **params) or policy_2(prim, *types, **params)


def _check_memories(*kinds: Any) -> None:
    for kind in kinds:
        if not isinstance(kind, str):
            raise TypeError(
                f"a checkpoint policy names kinds of memory, such as 'device' and 'pinned_host', by strings; got {kind!r}"
            )


_WELL_KNOWN = ("everything_saveable", "nothing_saveable", "dots_saveable", "dots_with_no_batch_dims_saveable")
_references: WeakKeyDictionary[Any, PolicyRef] = WeakKeyDictionary()


def policy_reference(policy: Policy | None) -> str | PolicyRef:
    """How a program refers to a policy: by the name of a well-known one, or by a reference. Raises TypeError for what is not callable."""
    if policy is None:
        return "nothing_saveable"
    if not callable(policy):
        raise TypeError(
            f"checkpoint: policy must be a function, such as a member of checkpoint_policies, or None; got {policy!r}"
        )
    for name in _WELL_KNOWN:
        if policy is getattr(checkpoint_policies, name):
            return name
    label = getattr(policy, "__name__", "policy").strip("<>")
    try:
        known = _references.get(policy)
        if known is None:
            known = _references[policy] = PolicyRef(label, policy)
        return known
    except TypeError:  # a callable that cannot be weakly referenced
        return PolicyRef(label, policy)


def may_save(reference: str | PolicyRef) -> Callable[[Equation], bool] | None:
    """Whether a policy lets the results of an equation be saved; None if it saves nothing at all."""
    if reference == "nothing_saveable":
        return None
    policy = getattr(checkpoint_policies, reference) if isinstance(reference, str) else reference.function
    return lambda eqn: bool(policy(eqn.primitive, *[a.type for a in eqn.inputs], **eqn.params))
