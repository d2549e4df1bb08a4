"""Groups of features, one a channel of the image: the masks that order R -> G -> B, and what layers with groups share."""

from __future__ import annotations

from collections import Counter
from itertools import accumulate, groupby, pairwise

import torch
from torch import Tensor

from pixelmodels.errors import UserError
from pixelmodels.layers.base import CausalLayer

Groups = tuple[int, ...]  # the group of each feature; -1 is seen by every group


def one_group(num_features: int) -> Groups:
    """All features in one group: the network does not order the channels."""
    return (0,) * num_features


def even_groups(num_features: int, num_groups: int) -> Groups:
    """`num_features` split into `num_groups` runs whose sizes differ by one at most; `UserError` for too few."""
    if num_features < num_groups:
        raise UserError(f"{num_features} features cannot be split into {num_groups} groups; give {num_groups} or more")
    return tuple(i * num_groups // num_features for i in range(num_features))


def group_mask(in_groups: Groups, out_groups: Groups, *, strict: bool) -> Tensor:
    """Which input features an output feature may see at its own pixel, as 0/1 shaped (out, in).

    Mask A (strict): features of strictly earlier groups. Mask B: of its own group too.
    """
    inputs, outputs = torch.tensor(in_groups), torch.tensor(out_groups)
    seen = inputs[None] < outputs[:, None] if strict else inputs[None] <= outputs[:, None]
    return seen.float()


def num_seen(in_groups: Groups, out_groups: Groups, *, strict: bool) -> int:
    """How many ones `group_mask` has."""
    inputs, outputs = Counter(in_groups), Counter(out_groups)
    return sum(inputs[i] * outputs[o] for i in inputs for o in outputs if (i < o if strict else i <= o))


def group_slices(groups: Groups) -> list[slice]:
    """Where each group's features are once they are sorted by group."""
    ends = [0, *accumulate(groups.count(g) for g in range(max(groups) + 1))]
    return [slice(start, stop) for start, stop in pairwise(ends)]


def group_runs(groups: Groups, group: int) -> list[slice]:
    """Where one group's features are, in order: as few slices as there can be."""
    runs, start = [], 0
    for found, same in groupby(groups):
        stop = start + len(list(same))
        if found == group:
            runs.append(slice(start, stop))
        start = stop
    return runs


class Grouped(CausalLayer):
    """What layers with groups share: their outputs sorted by group, for one group a pass."""

    def __init__(self, in_groups: Groups, out_groups: Groups):
        super().__init__()
        self.in_groups, self.out_groups = in_groups, out_groups
        self.num_groups = max(out_groups) + 1
        order = sorted(range(len(out_groups)), key=lambda i: out_groups[i])  # stable: the order inside a group stays
        self.order: Tensor
        self.unsort: Tensor
        self.register_buffer("order", torch.tensor(order), persistent=False)
        self.register_buffer("unsort", torch.argsort(self.order), persistent=False)
        self.out_slices = group_slices(out_groups)
        self.in_runs = [group_runs(in_groups, g) for g in range(self.num_groups)]

    def put_group(self, target_BI: Tensor, x_BC: Tensor, group: int) -> None:
        """Write one group's features into a buffer of all of them."""
        runs = self.in_runs[group]
        if self.num_groups == 1:
            target_BI.copy_(x_BC)
        elif len(runs) == 1:
            target_BI[:, runs[0]] = x_BC
        else:
            for run, part in zip(runs, x_BC.split([run.stop - run.start for run in runs], 1), strict=True):
                target_BI[:, run] = part
