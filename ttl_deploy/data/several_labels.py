"""Settles the labels of images that may have several of them, or none.

Every reader writes them in one text: `A|B` for an image with A and B, `A|?C` where nothing is known of C, nothing for
one without any. Tables of people have words for that (`No Finding`), and other signs between labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ttl_deploy.data.class_names import settle_names, task_of_names, writings
from ttl_deploy.data.columns import normal
from ttl_deploy.data.listing import Entry, Labelled, Listing
from ttl_deploy.data.values import is_missing, same_value, tidy
from ttl_deploy.errors import BadInputError, near
from ttl_deploy.spec import TaskSpec
from ttl_deploy.tasks import UNKNOWN, Label
from ttl_deploy.tasks.multilabel import DOUBT, SEPARATOR

UnknownPolicy = Literal["ignore", "zeros", "ones"]

_COUNTS_AS: Mapping[UnknownPolicy, int] = {"ignore": UNKNOWN, "zeros": 0, "ones": 1}

_NONE = frozenset({"none", "normal", "nofinding", "nofindings"})
"""What people write for an image without any label, without case, spaces and signs."""

_OTHER_SEPARATORS = ";,"

_SHOWN = 5
"""How many words a line names."""


@dataclass(frozen=True)
class _Said:
    """What a text says.

    Attributes:
        has: Labels that the image has.
        doubtful: Labels of which nothing is known.
        none: The words that say that there is none.
    """

    has: frozenset[str]
    doubtful: frozenset[str]
    none: frozenset[str]


def settle_several(
    path: Path,
    listing: Listing,
    classes: Sequence[str] | None,
    task: TaskSpec,
    *,
    ignore: bool,
    unknown: UnknownPolicy,
    options: bool,
) -> Labelled:
    """The images with 1, 0 or `UNKNOWN` for each label; those of which none is known are left out.

    Args:
        path: For the error.
        listing: The images.
        classes: See `ttl_deploy.data.manifest.read_dataset`.
        task: What the labels mean.
        ignore: Leave out labels that are not in `classes`.
        unknown: What a label counts as of which nothing is known.
        options: Whether the command has options for classes, so that an error may name them.

    Raises:
        BadInputError: A label is not in `classes`, a text contradicts itself, or all images or none have a label.
    """
    given = classes if classes is not None else listing.classes
    if given is not None:
        task_of_names(task, given)
    texts = Counter(entry.label for entry in listing.entries)
    silent = {text for text in texts if _says_nothing(listing, text, given)}
    sign = _separator(listing, [text for text in texts if text not in silent], given)
    words = {text: _words(text, sign) for text in texts if text not in silent}
    counts = Counter(dict.fromkeys(listing.empty, 1))
    for text, found in words.items():
        counts.update({word.removeprefix(DOUBT): texts[text] for word in found})
    none = {word: count for word, count in counts.items() if _is_none(word, given)}
    named = Counter({word: count for word, count in counts.items() if word not in none})
    writing, told = writings(named, given)
    names = settle_names(
        path, set(writing.values()), given, fewest=task.fewest_classes, hint="name the labels with --classes"
    )
    said = {text: _said(found, writing, none) for text, found in words.items()}
    _refuse_contradictions(listing.entries, said)
    others = _others(named, writing, names)
    if others and not ignore:
        raise _other_label(listing.entries, said, others, names, options=options)
    labels = {text: _label(each, names, _COUNTS_AS[unknown]) for text, each in said.items()}
    nothing = (UNKNOWN,) * len(names)
    entries = [entry for entry in listing.entries if labels.get(entry.label, nothing) != nothing]
    result: list[Label] = [labels[entry.label] for entry in entries]
    _refuse_one_sided(path, listing, names, result, options=options)
    return Labelled(
        task_of_names(task, names),
        entries,
        result,
        told=(*told, *_left_out(len(listing.entries) - len(entries)), *_undivided(words, sign, given)),
        notes=tuple(_notes(sign, {word: count for word, count in none.items() if word}, others)),
    )


def _says_nothing(listing: Listing, text: str, given: Sequence[str] | None) -> bool:
    """Whether a cell says that nobody looked; a blank one says that nothing was found."""
    if not listing.is_table or _is_none(text, given):
        return False
    return text == DOUBT or (is_missing(text) and not any(same_value(name, text) for name in given or ()))


def _is_none(word: str, given: Sequence[str] | None) -> bool:
    return (not word or normal(word) in _NONE) and not any(same_value(name, word) for name in given or ())


def _separator(listing: Listing, texts: Sequence[str], given: Sequence[str] | None) -> str:
    """The sign between labels: that of the user; another than `|` only where the user's classes leave no doubt."""
    if listing.separator is not None:
        return listing.separator
    if given is None or listing.classes is not None or any(SEPARATOR in text for text in texts):
        return SEPARATOR
    for sign in _OTHER_SEPARATORS:
        divided = [_words(text, sign) for text in texts if sign in text]
        if not any(sign in name for name in given) and any(
            len(parts) > 1 and all(any(same_value(name, part) for name in given) for part in parts) for parts in divided
        ):
            return sign
    return SEPARATOR


def _words(text: str, sign: str) -> list[str]:
    parts = [tidy(part) for part in text.split(sign)]
    return [part for part in parts if part] or [""]


def _others(counts: Mapping[str, int], writing: Mapping[str, str], names: Sequence[str]) -> dict[str, int]:
    """The labels that are no classes, and how many images say them."""
    found: Counter[str] = Counter()
    for word, count in counts.items():
        if writing[word] not in names:
            found[writing[word]] += count
    return dict(found)


def _said(words: Sequence[str], writing: Mapping[str, str], none: Mapping[str, int]) -> _Said:
    bare = {word.removeprefix(DOUBT): word.startswith(DOUBT) for word in words}
    return _Said(
        has=frozenset(writing[word] for word in words if word in writing),
        doubtful=frozenset(writing[word] for word, doubt in bare.items() if doubt and word in writing),
        none=frozenset(word for word in words if word in none),
    )


def _refuse_contradictions(entries: Sequence[Entry], said: Mapping[str, _Said]) -> None:
    for text, each in said.items():
        if each.has & each.doubtful or (each.none and (each.has or each.doubtful)):
            place = next(entry.place for entry in entries if entry.label == text)
            raise BadInputError(f"the label {text!r} contradicts itself", where=place, fix="correct it")


def _other_label(
    entries: Sequence[Entry],
    said: Mapping[str, _Said],
    others: Mapping[str, int],
    names: Sequence[str],
    *,
    options: bool,
) -> BadInputError:
    for entry in entries:
        each = said.get(entry.label)
        found = sorted((each.has | each.doubtful) & others.keys()) if each else []
        if found:
            way = ", add it to --classes, or pass --ignore-other-labels to leave such labels out"
            return BadInputError(
                f"label {found[0]!r} is not one of the classes ({', '.join(names)})",
                where=entry.place,
                fix=f"correct it{way if options else ' or remove it'}",
            )
    # Only a folder without images names a label that no image has.
    return BadInputError(f"label {min(others)!r} has no images", where=entries[0].place, fix="remove its folder")


def _label(said: _Said, names: Sequence[str], doubt: int) -> tuple[int, ...]:
    return tuple(1 if name in said.has else doubt if name in said.doubtful else 0 for name in names)


def _refuse_one_sided(
    path: Path, listing: Listing, names: Sequence[str], labels: Sequence[Label], *, options: bool
) -> None:
    """A label that no image has, or that every image has, can be neither learnt nor tested."""
    if not labels:
        way = ", or say with --unknown what counts where nothing is said" if options else ""
        raise BadInputError("of no image any label is known", where=path, fix=f"give some a label{way}")
    table = np.array(labels, dtype=np.int64)
    for name, values in zip(names, table.T, strict=True):
        if not (values == 1).any():
            empty = name in listing.empty and (path / name).is_dir()
            others = f"leave it out with --classes; {near(name, sorted({n for n in names if n != name}))}"
            other = ", or " + (others if len(names) > 1 else "name another with --classes") if options else ""
            raise BadInputError(
                f"class {name!r} has no images",
                where=path / name if empty else path,
                fix=f"add images{other}",
            )
        if not (values == 0).any():
            unknown = int((values == UNKNOWN).sum())
            doubt = f"no image is known to be without {name!r}, of {unknown:,} nothing is known"
            way = ", or leave it out with --classes" if options else ""
            way += "; --unknown zeros counts what is not known as a no" if unknown and options else ""
            said = doubt if unknown else f"every image has {name!r}"
            raise BadInputError(said, where=path, fix=f"add images without it{way}")


def _left_out(count: int) -> list[str]:
    return [f"images left out, because no label of theirs is known: {count:,}"] if count else []


def _undivided(words: Mapping[str, Sequence[str]], sign: str, given: Sequence[str] | None) -> list[str]:
    """A label that looks like several; whether it is only the user knows."""
    doubtful = sorted(text for text in words if sign == SEPARATOR and given is None and ";" in text)
    return (
        [f"label {doubtful[0]!r} is read as one: name the labels with --classes where it is several"]
        if doubtful
        else []
    )


def _notes(sign: str, none: Mapping[str, int], others: Mapping[str, int]) -> list[str]:
    notes = [f"labels are divided at {sign}"] if sign != SEPARATOR else []
    if none:
        notes.append(f"no label where the data says {_counted(none)}")
    if others:
        notes.append(f"labels left out, their images kept: {_counted(others)}")
    return notes


def _counted(words: Mapping[str, int]) -> str:
    ordered = sorted(words.items(), key=lambda word: (-word[1], word[0]))
    more = f" and {len(ordered) - _SHOWN:,} more" if len(ordered) > _SHOWN else ""
    return ", ".join(f"{word} ({count:,})" for word, count in ordered[:_SHOWN]) + more
