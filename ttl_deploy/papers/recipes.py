"""Recipes: the files, and a request in which they stand in the place of the program's defaults."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from ttl_deploy.documents import read_toml
from ttl_deploy.errors import BadInputError, DamagedError, near
from ttl_deploy.papers.accuracy import load_accuracies
from ttl_deploy.resources import data_folder, data_tables
from ttl_deploy.spec import AnyRecord, Data, Network, Protocol, read_record
from ttl_deploy.spec.recipe import RecipeFile, Sections, over, said_in
from ttl_deploy.spec.record import first_problem
from ttl_deploy.zoo import BACKBONES

FOLDER = "benchmarks/paper/recipes"

AnyNetwork = TypeVar("AnyNetwork", bound=Network)
AnyProtocol = TypeVar("AnyProtocol", bound=Protocol)


def recipe_names() -> tuple[str, ...]:
    """The papers' recipes that come with the program."""
    return tuple(path.stem for path in data_tables(FOLDER))


def read_recipe(name: str) -> RecipeFile:
    """A recipe by its name, or from a TOML file of one's own.

    Raises:
        BadInputError: There is none of the name, or no such file.
        DamagedError: The file is no TOML, or a field is unknown or out of its range; the error names file and field.
    """
    return _read(Path(name) if name.endswith(".toml") else _known(name))


def with_recipe(data: Data, network: AnyNetwork, protocol: AnyProtocol) -> tuple[Data, AnyNetwork, AnyProtocol]:
    """What a user asks for, with the protocol's recipe where the user said nothing; as it came where there is none.

    Raises:
        BadInputError: As `read_recipe`, or what the recipe says does not go together with what the user does.
    """
    if protocol.recipe is None:
        return data, network, protocol
    found = read_recipe(protocol.recipe)
    said = said_of(found, dict(_filled(network, said_in(found.model), protocol.recipe)))
    full = _filled(network, said["model"], protocol.recipe)
    if "image_size" in said["model"] and "image_size" not in network.model_fields_set:
        _refuse_other_axes(full, protocol.recipe)
    return _filled(data, said["data"], protocol.recipe), full, _filled(protocol, said["protocol"], protocol.recipe)


def said_of(recipe: RecipeFile, model: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What a recipe says, by section and field, with what it says of this model besides.

    Args:
        recipe: The recipe.
        model: The fields of `Model`, as far as they are known.
    """
    fitting = [part for part in recipe.when if all(_is(model, *pair) for pair in part.model_is.items())]
    return functools.reduce(lambda below, part: over(_sections(part), below), fitting, _sections(recipe))


def _known(name: str) -> Path:
    if name not in recipe_names():
        raise BadInputError(
            f"unknown recipe {name!r:.80}", fix=f"{near(name, recipe_names())}; or a .toml file of yours"
        )
    return data_folder(FOLDER) / f"{name}.toml"


def _read(path: Path) -> RecipeFile:
    found = read_record(RecipeFile, read_toml(path, missing="pass a recipe's name or file"), path)
    _refuse_unknown_rows(found, path)
    return found


def _refuse_unknown_rows(recipe: RecipeFile, path: Path) -> None:
    groups = {table.name: sorted({row.group for row in table.rows}) for table in load_accuracies()}
    for part in recipe.beside:
        if part.table not in groups:
            raise DamagedError(f"beside: unknown table {part.table!r:.80}", where=path, fix=near(part.table, groups))
        for group in part.groups:
            if group not in groups[part.table]:
                what = f"beside: table {part.table} has no group {group!r:.80}"
                raise DamagedError(what, where=path, fix=near(group, groups[part.table]))


def _is(model: Mapping[str, Any], field: str, pattern: str) -> bool:
    return fnmatchcase(str(model.get(field)), pattern)


def _sections(part: Sections) -> dict[str, dict[str, Any]]:
    return {"data": said_in(part.data), "model": said_in(part.model), "protocol": said_in(part.protocol)}


def _refuse_other_axes(network: Network, recipe: str) -> None:
    """Raises `BadInputError` where a recipe of volumes meets a network of images, or the reverse."""
    kinds = {2: "images", 3: "volumes"}
    size, reads = network.image_size, BACKBONES.get(network.backbone).dims
    axes = 3 if isinstance(size, tuple) and len(size) == 3 else 2
    if axes != reads:
        raise BadInputError(
            f"is of {kinds[axes]}, and backbone {network.backbone} reads {kinds[reads]}",
            where=f"recipe {recipe}",
            fix="choose another --backbone or --recipe, or say --image-size",
        )


def _filled(record: AnyRecord, below: Mapping[str, Any], recipe: str) -> AnyRecord:
    own = {name: value for name, value in below.items() if name in type(record).model_fields}
    try:
        return type(record)(**over(said_in(record), own))
    except ValidationError as error:
        raise BadInputError(
            first_problem(error), where=f"recipe {recipe}", fix="say all of it yourself, or leave out what it is about"
        ) from error
