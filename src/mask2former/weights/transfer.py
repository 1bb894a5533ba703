"""A model that starts from one with other classes: what fits is kept, the rest is new."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mask2former.modeling.mask2former import Mask2Former
from mask2former.structures import Category, class_names
from mask2former.weights.names import misfits, with_counters_of

_CLASSES = ("decoder.head.class_logits.weight", "decoder.head.class_logits.bias")
_QUERIES = ("decoder.query_features", "decoder.query_positions")
# Of cells as queries and their masks: one that starts from such a model may do without.
_OPTIONAL = ("decoder.selection.", "decoder.head.anchoring.")


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """What a model took from another, beside the tensors that both have in one shape."""

    kept: tuple[str, ...]  # classes that both know: their rows of the class head were copied
    new: tuple[str, ...]  # classes whose rows are as they were
    new_queries: int  # queries beyond those of the source
    left_out: tuple[str, ...]  # tensors of the source that have no place


@torch.no_grad()
def transfer(model: Mask2Former, source: Mask2Former, name: str) -> Transfer:
    """Give a model the weights of one that may know other classes and have fewer or more queries.

    Classes are matched by name; "no object" is the same for both. Rows of the class head and
    queries without a counterpart stay as they are. `name` is the source's, for the error:
    ValueError lists the other tensors that do not fit.
    """
    rows = matches(model.config.categories, source.config.categories)
    own, theirs = model.state_dict(), source.state_dict()
    tensors = {n: t for n, t in theirs.items() if n in own or not n.startswith(_OPTIONAL)}
    tensors = with_counters_of(own, tensors)
    for key in _QUERIES:
        if key in own and key in tensors:
            tensors[key] = _first_rows(own[key], tensors[key])
    for key in _CLASSES:
        if key in tensors and tensors[key].shape[1:] == own[key].shape[1:]:
            tensors[key] = _class_rows(own[key], tensors[key], rows)
    faults = misfits(own, tensors)
    if faults:
        raise ValueError(f"{name}: the weights do not fit the config {faults}")
    model.load_state_dict(tensors, strict=False)
    names = class_names(model.config.categories)
    return Transfer(
        kept=tuple(n for n, row in zip(names, rows, strict=True) if row is not None),
        new=tuple(n for n, row in zip(names, rows, strict=True) if row is None),
        new_queries=max(0, model.config.decoder.queries - source.config.decoder.queries),
        left_out=tuple(n for n in theirs if n not in tensors),
    )


def matches(
    categories: tuple[Category, ...], source: tuple[Category, ...]
) -> tuple[int | None, ...]:
    """For each category the source's row of the same name, capitals aside; None if it has none."""
    known = {name.casefold(): row for row, name in reversed([*enumerate(class_names(source))])}
    return tuple(known.get(name.casefold()) for name in class_names(categories))


def _first_rows(own: Tensor, theirs: Tensor) -> Tensor:
    """As many rows as our own tensor has: theirs first."""
    if own.shape[1:] != theirs.shape[1:]:
        return theirs  # a misfit, to be told as one
    return torch.cat((theirs[: len(own)], own[len(theirs) :]))


def _class_rows(own: Tensor, theirs: Tensor, rows: tuple[int | None, ...]) -> Tensor:
    made = own.clone()
    for row, origin in enumerate(rows):
        if origin is not None:
            made[row] = theirs[origin]
    made[-1] = theirs[-1]  # "no object"
    return made
