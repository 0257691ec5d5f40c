"""Imports that cost less leave the collector of cyclic garbage as it was."""

import gc

import pytest

from ttl_deploy import first_use
from ttl_deploy.first_use import end_with_one_command, importing


@pytest.mark.parametrize("looked", [True, False])
def test_garbage_is_looked_for_as_before_also_after_an_import_that_fails(looked: bool) -> None:
    before = gc.isenabled()
    (gc.enable if looked else gc.disable)()
    try:
        with pytest.raises(ImportError), importing():
            assert not gc.isenabled()
            raise ImportError
        assert gc.isenabled() == looked
    finally:
        (gc.enable if before else gc.disable)()


def test_only_a_process_of_one_command_sets_aside_what_it_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    gc.unfreeze()
    with importing():
        pass
    assert gc.get_freeze_count() == 0
    monkeypatch.setattr(first_use, "_one_command", False)
    end_with_one_command()
    with importing():
        pass
    assert gc.get_freeze_count() > 0
    gc.unfreeze()
