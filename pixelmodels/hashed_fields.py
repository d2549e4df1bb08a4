"""What of a config belongs in the hash by which runs and data sets are known: a new field at its default changes no hash.

Runs are known by a hash of their recipe, data sets and sweeps by one of their options. The fields that were there from the beginning
are always part of it. A field that came later is part of it only where its value is not its default: so whatever was made before the
field was there is found again, as what the default stands for. So such a default must be what there was before, and stay.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

# The fields that were hashed before there was a rule (commit 47ad97b), by class. Never add to them and never take one away.
FROM_THE_BEGINNING = {
    "Recipe": "name dataset model likelihood condition_on small_factor context_drop_rate optimizer batch_size accumulate epochs patience"
    " seed activation_checkpointing precision evaluation_batch_size num_samples sample_every",
    "OptimizerConfig": "name learning_rate betas weight_decay schedule warmup_steps decay clip_norm average_decay",
    "LikelihoodConfig": "name num_mixtures",
    "DatasetConfig": "source path name size channels levels binarize patch_size labels vectors splits validation_share test_share seed"
    " rows_per_shard max_bad_share max_pixels",
    "Tune": "space num_samples suite start_from dataset data_path storage name epochs asha grace_epochs reduction_factor max_concurrent"
    " max_minutes max_parameters num_workers cpus_per_worker use_gpu checkpoint_every_s max_failures seed fresh",
    "GatedPixelCNNConfig": "num_layers num_features kernel_size first_kernel_size head_features dropout gating",
    "MultiscalePixelRNNConfig": "factor small large",
    "PixelCNNConfig": "num_layers num_features kernel_size first_kernel_size head_features dropout",
    "PixelCNNPPConfig": "num_layers num_features dropout shortcuts weight_norm",
    "PixelRNNDiagonalBiLSTMConfig": "num_layers num_features first_kernel_size head_features dropout residual",
    "PixelRNNRowLSTMConfig": "num_layers num_features first_kernel_size head_features dropout residual",
    "PixelSNAILConfig": "num_blocks num_layers num_features key_features value_features dropout",
}


def hashed_fields(config: Any) -> list[dataclasses.Field[Any]]:
    """The fields of a dataclass instance that belong in a hash of it, in their order."""
    first = FROM_THE_BEGINNING.get(type(config).__name__, "").split()
    return [spec for spec in dataclasses.fields(config) if spec.name in first or getattr(config, spec.name) != default_of(spec)]


def hashed(config: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Of values by the names of a dataclass instance's fields, those that belong in a hash."""
    names = {spec.name for spec in hashed_fields(config)}
    return {name: value for name, value in values.items() if name in names}


def default_of(spec: dataclasses.Field[Any]) -> Any:
    """The default of a field; `dataclasses.MISSING` where it has none."""
    return spec.default_factory() if spec.default_factory is not dataclasses.MISSING else spec.default
