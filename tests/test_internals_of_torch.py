"""The private names of other packages that are used are there, and do what they are used for."""

from __future__ import annotations

import pytest
import torch

from pixelmodels.errors import UserError
from pixelmodels.internals import dispatch_mode, fake_tensors, private, storage_address


def test_a_name_that_is_gone_is_told_with_its_package_and_the_remedy() -> None:
    for module, name in (("torch._subclasses", "NoSuchMode"), ("torch._no_such_module", "x")):
        with pytest.raises(UserError, match=rf"^torch \d.* has no {module}.{name}, which is needed to test; install the version in req"):
            private(module, name, "to test")


def test_fake_tensors_take_no_memory_and_tell_their_storages_apart() -> None:
    with fake_tensors():
        large, other = torch.empty(10**12), torch.empty(10**12)
        assert large.shape == (10**12,)
        assert storage_address(large.untyped_storage()) == storage_address(large[5:].untyped_storage())
        assert storage_address(large.untyped_storage()) != storage_address(other.untyped_storage())


def test_a_dispatch_mode_sees_operations() -> None:
    seen: list[str] = []

    class Mode(dispatch_mode()):  # type: ignore[misc]
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    with Mode():
        torch.ones(2) + 1
    assert any("add" in name for name in seen)


def test_a_local_ray_has_no_autoscaler(ray_cluster: None) -> None:
    from pixelmodels.internals import has_autoscaler

    assert not has_autoscaler()
