"""What PyTorch would evaluate of an archive, held against a short list before PyTorch sees it.

`torch.export.load` and `torch.jit.load` are no readers of data alone. The first gives expressions of sizes to SymPy,
which evaluates them as Python, makes Python source from names, guards and signatures, imports what a tree spec names,
unpickles marked tensors, and looks operators up by their dotted name, `torch.hub.load` included. The second runs the
archive's own language, which has operators that write files. So everything here is refused that this program does not
write itself: what is allowed is listed, and nothing else passes. The archive is listed by PyTorch's own reader, so
that both see the same records.
"""

from __future__ import annotations

import ast
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ttl_deploy.errors import IntegrityError, TtlDeployError
from ttl_deploy.runtime.script_tensors import misplaced

_NAMES = """
    _adaptive_avg_pool2d _assert_tensor_metadata _convolution _native_batch_norm_legit_no_training _softmax _to_copy
    _unsafe_view adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d
    add add_ addmm alias amax amin avg_pool2d avg_pool3d batch_norm bmm cat ceil chunk clamp clamp_ clone
    constant_pad_nd contiguous conv2d conv3d convolution detach detach_ div div_ dropout dropout_ elu elu_ expand
    flatten floor_divide gelu gelu_ group_norm hardsigmoid hardsigmoid_ hardswish hardswish_ hardtanh hardtanh_
    layer_norm leaky_relu leaky_relu_ linear log_softmax matmul max_pool2d max_pool3d mean mm mul mul_ narrow
    native_batch_norm native_group_norm native_layer_norm neg pad permute pow prelu relu relu6 relu6_ relu_ reshape
    roll scaled_dot_product_attention select sigmoid sigmoid_ silu silu_ size slice softmax split split_with_sizes
    sqrt squeeze stack sub sub_ sum t tanh tanh_ to transpose unbind unflatten unsqueeze upsample_bilinear2d
    upsample_nearest2d view
"""
OPERATORS = frozenset(_NAMES.split())
"""Names in `torch.ops.aten` that compute from their inputs and do nothing else. Others there open files."""

_RECORD = re.compile(
    r"data/weights/weight_\d+|data/constants/tensor_\d+|data/(weights|constants)/\w+_config\.json|models/\w+\.json"
    r"|data/sample_inputs/\w+\.pt|archive_(format|version)|byteorder|version|\.data/(version|serialization_id)"
    r"|\.format_version|\.storage_alignment|extra/\w+\.json"
)
"""Records of an exported program that hold JSON, text or raw numbers; example inputs are harmless where empty."""

_SCRIPT_RECORD = re.compile(
    r"data\.pkl|constants\.pkl|constants/\d+|data/\d+|code/__torch__/[\w/]+\.py|version|byteorder"
    r"|\.data/(version|serialization_id)|\.format_version|\.storage_alignment|extra/\w+\.json"
)
"""Records of a TorchScript archive. Its pickles are read by LibTorch's own unpickler, which knows no Python objects;
`script_tensors` checks what that does not."""

_ENGINE = re.compile(r"custom_obj_\d+")
_TARGET = re.compile(r"torch\.ops\.aten\.(\w+)\.\w+")
_SYMBOL = re.compile(r"[a-z]{1,2}\d{1,9}")
_WORD = re.compile(r"[\w.+:-]{0,512}")
_NAME = re.compile(r"[A-Za-z_]\w{0,255}")
_TREES = {None, "builtins.tuple", "builtins.list", "builtins.dict"}
_ASSUMPTIONS = {"positive", "integer", "nonnegative"}
_ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Mod)
_FUNCTIONS = {"Mod", "FloorDiv", "CeilDiv", "PythonMod", "Max", "Min"}
_LONGEST = 2000
"""Characters of an expression; one of an image network's sizes has about fifty."""


class _RefusedError(Exception):
    """What was found that is on no list."""


def check_program(path: Path, *, engines: bool = False) -> None:
    """Refuses an exported program that holds more than numbers, names, known operators and sizes.

    Args:
        path: The archive.
        engines: Allow TensorRT engines. They are machine code, so the program around them is checked for pickles
            alone: whoever runs them trusts their maker.

    Raises:
        IntegrityError: It is no such archive, or something in it is on no list; the error names it.
    """
    with _refusing(path):
        records = _records(path)
        for name, content in records.items():
            _check_record(name, content, engines)
        for name, content in records.items():
            if name.endswith(".json") and not name.startswith("extra/"):
                _check_json(name, content, engines)


def check_script(path: Path) -> None:
    """Refuses a TorchScript archive whose code does more than call known operators, one after the other.

    Raises:
        IntegrityError: It is no such archive, or something in it is on no list; the error names it.
    """
    with _refusing(path):
        for name, content in _records(path).items():
            if not _SCRIPT_RECORD.fullmatch(name):
                raise _RefusedError(f"the record {name!r}")
            if name.endswith(".py"):
                _check_source(content)
        _check_tensors(path)


def _check_tensors(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {entry.filename.partition("/")[2]: entry for entry in archive.infolist()}
        sizes = {name: entry.file_size for name, entry in members.items()}
        problem = misplaced(sizes, lambda name: archive.read(members[name]))
    if problem is not None:
        raise IntegrityError(f"holds {problem}", where=path, fix="export the run again")


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Turns whatever a damaged or hostile archive raises while it is read into one error with the file's name."""
    try:
        yield
    except _RefusedError as error:
        raise IntegrityError(
            f"holds {error}, which could run any code", where=path, fix="export the run again"
        ) from error
    except TtlDeployError:
        raise
    except Exception as error:  # on damaged archives zipfile raises anything from struct.error to KeyError
        raise IntegrityError("is not an archive of PyTorch", where=path, fix="export the run again") from error


def _records(path: Path) -> dict[str, bytes]:
    """Every record as PyTorch's reader sees it: what is large and only numbers is left empty.

    Python's reader must agree on the names, as PyTorch falls back to it for old archives.
    """
    import torch

    with zipfile.ZipFile(path) as archive:
        listed = [entry.filename.partition("/")[2] for entry in archive.infolist()]
    reader = torch._C.PyTorchFileReader(str(path))
    names = reader.get_all_records()
    if len(set(names)) != len(names) or sorted(names) != sorted(listed):
        raise _RefusedError("records of one name, or in several folders")
    return {name: reader.get_record(name) if name.endswith((".json", ".py", ".pt")) else b"" for name in names}


def _check_record(name: str, content: bytes, engines: bool) -> None:
    if not _RECORD.fullmatch(name) and not (engines and _is_engine(name)):
        raise _RefusedError(f"the record {name!r}")
    if name.startswith("data/sample_inputs/") and content:
        raise _RefusedError(f"a pickle ({name})")


def _check_json(name: str, content: bytes, engines: bool) -> None:
    document = json.loads(content)
    if name.endswith("_config.json"):
        _check_weights(document, engines)
    if not engines:
        _check_value(document, "")


def _check_weights(document: Any, engines: bool) -> None:
    """Every tensor is raw numbers: PyTorch takes a missing mark for a pickle."""
    config = document.get("config") if isinstance(document, dict) else None
    if not isinstance(config, dict):
        raise _RefusedError("a list of weights of another form")
    for entry in config.values():
        path = entry.get("path_name") if isinstance(entry, dict) else None
        if not isinstance(path, str):
            raise _RefusedError("a list of weights of another form")
        if entry.get("use_pickle", True) is not False and not (engines and _is_engine(path)):
            raise _RefusedError(f"a pickle ({path})")


def _is_engine(name: str) -> bool:
    return bool(_ENGINE.fullmatch(name.rpartition("/")[2]))


def _check_value(value: Any, key: str) -> None:
    """Walks the JSON: what is evaluated somewhere has a grammar, any other word is letters, digits and dots."""
    special = _SPECIAL.get(key)
    if special is not None:
        special(value)
    elif isinstance(value, dict):
        for name, inner in value.items():
            _check_word(name)
            _check_value(inner, name)
    elif isinstance(value, list):
        for inner in value:
            _check_value(inner, "")
    elif isinstance(value, str):
        _check_word(value)


def _check_word(word: str) -> None:
    if not _WORD.fullmatch(word):
        raise _RefusedError(f"the word {word!r:.80}")


def _check_name(value: Any) -> None:
    """Becomes part of the Python source that PyTorch makes of a graph."""
    if value != "" and not (isinstance(value, str) and _NAME.fullmatch(value)):
        raise _RefusedError(f"the name {value!r:.80}")


def _check_names(value: Any) -> None:
    for name in _list(value):
        _check_name(name)


def _check_named(value: Any) -> None:
    if not isinstance(value, dict):
        raise _RefusedError("values of another form")
    for name, inner in value.items():
        _check_name(name)
        _check_value(inner, "")


def _check_nodes(value: Any) -> None:
    for node in _list(value):
        if not isinstance(node, dict):
            raise _RefusedError("a node of another form")
        _check_operator(node.get("target"))
        _check_value({name: inner for name, inner in node.items() if name != "target"}, "")


def _check_operator(value: Any) -> None:
    found = _TARGET.fullmatch(value) if isinstance(value, str) else None
    if found is None or found[1] not in OPERATORS:
        raise _RefusedError(f"the operator {value!r:.80}")


def _check_empty(value: Any) -> None:
    if value:
        raise _RefusedError(f"notes or objects of Python ({value!r:.80})")


def _check_tree(value: Any) -> None:
    """A tree spec is JSON in a string; types other than Python's own containers are imported by their name."""
    if value in (None, ""):
        return
    content = json.loads(value)
    if not (isinstance(content, list) and len(content) == 2 and content[0] == 1):
        raise _RefusedError("a tree of another version")
    _check_branch(content[1])


def _check_branch(branch: Any) -> None:
    if not isinstance(branch, dict) or branch.get("type") not in _TREES:
        raise _RefusedError(f"a tree of {branch!r:.80}")
    context = branch.get("context")
    inner = json.loads(context) if context is not None else None
    if inner is not None:
        _check_names(inner)
    for child in _list(branch.get("children_spec")):
        _check_branch(child)


def _check_ranges(value: Any) -> None:
    if not isinstance(value, dict):
        raise _RefusedError("ranges of another form")
    for symbol, limits in value.items():
        whole = isinstance(limits, dict) and all(v is None or isinstance(v, int) for v in limits.values())
        if not _SYMBOL.fullmatch(symbol) or not whole:
            raise _RefusedError(f"the range of {symbol!r:.80}")


def _check_expression(value: Any) -> None:
    _walk_size(_parsed(value))


def _check_guards(value: Any) -> None:
    for guard in _list(value):
        _walk_guard(_parsed(guard))


def _parsed(value: Any) -> ast.expr:
    if not isinstance(value, str) or len(value) > _LONGEST:
        raise _RefusedError(f"the expression {value!r:.80}")
    try:
        return ast.parse(value.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _RefusedError(f"the expression {value!r:.80}") from error


def _walk_size(node: ast.expr) -> None:
    """Integers, symbols such as s0, their sums, products and quotients; no power, whose value could fill the memory."""
    match node:
        case ast.Constant(value=int()) | ast.Name(id="True" | "False"):
            return
        case ast.Name(id=name) if _SYMBOL.fullmatch(name):
            return
        case ast.BinOp(left=left, op=op, right=right) if isinstance(op, _ARITHMETIC):
            _walk_size(left)
            _walk_size(right)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            _walk_size(operand)
        case ast.Call(func=ast.Name(id="Symbol"), args=[ast.Constant(value=str(symbol))], keywords=assumptions) if (
            _SYMBOL.fullmatch(symbol)
        ):
            _check_assumptions(assumptions)
        case ast.Call(func=ast.Name(id=function), args=arguments, keywords=[]) if function in _FUNCTIONS:
            for argument in arguments:
                _walk_size(argument)
        case _:
            raise _RefusedError(f"the expression {ast.unparse(node)!r:.80}")


def _check_assumptions(keywords: list[ast.keyword]) -> None:
    for keyword in keywords:
        plain = isinstance(keyword.value, ast.Constant) and isinstance(keyword.value.value, bool)
        if keyword.arg not in _ASSUMPTIONS or not plain:
            raise _RefusedError(f"the assumption {ast.unparse(keyword.value)!r:.80}")


def _walk_guard(node: ast.expr) -> None:
    """Comparisons of input sizes, such as `L['images'].size()[0] >= 2`."""
    match node:
        case ast.Constant(value=int()):
            return
        case ast.Compare(left=left, comparators=right):
            for side in (left, *right):
                _walk_guard(side)
        case ast.BinOp(left=left, op=op, right=right) if isinstance(op, _ARITHMETIC):
            _walk_guard(left)
            _walk_guard(right)
        case ast.Subscript(
            value=ast.Call(
                func=ast.Attribute(
                    value=ast.Subscript(value=ast.Name(id="L"), slice=ast.Constant(value=str(name))), attr="size"
                ),
                args=[],
                keywords=[],
            ),
            slice=ast.Constant(value=int()),
        ) if _NAME.fullmatch(name):
            return
        case _:
            raise _RefusedError(f"the guard {ast.unparse(node)!r:.80}")


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise _RefusedError(f"{value!r:.80} in place of a list")
    return value


_SPECIAL: Mapping[str, Any] = {
    "expr_str": _check_expression,
    "guards_code": _check_guards,
    "nodes": _check_nodes,
    "as_operator": _check_operator,
    "metadata": _check_empty,
    "custom_obj_values": _check_empty,
    "as_custom_obj": _check_empty,
    "treespec_namedtuple_fields": _check_empty,
    "in_spec": _check_tree,
    "out_spec": _check_tree,
    "range_constraints": _check_ranges,
    "forward_arg_names": _check_names,
    "name": _check_name,
    "as_name": _check_name,
    "tensor_values": _check_named,
    "sym_int_values": _check_named,
    "sym_bool_values": _check_named,
    "sym_float_values": _check_named,
}
"""By the key they stand under: the values that PyTorch evaluates, or makes source of."""


def _check_source(content: bytes) -> None:
    """Classes with one method `forward`, which assigns operators' results. One of another name may run on loading."""
    try:
        tree = ast.parse(content.decode())
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise _RefusedError("code that cannot be read") from error
    for statement in _statements(tree):
        _check_statement(statement)


def _statements(tree: ast.Module) -> Iterator[ast.stmt]:
    for place in tree.body:
        if not isinstance(place, ast.ClassDef):
            raise _RefusedError(f"the code {ast.unparse(place)!r:.80}")
        for member in place.body:
            if isinstance(member, ast.FunctionDef) and member.name == "forward" and not member.decorator_list:
                yield from member.body
            elif not isinstance(member, ast.Assign | ast.AnnAssign) or _calls(member):
                raise _RefusedError(f"the code {ast.unparse(member)!r:.80}")


def _calls(node: ast.AST) -> list[ast.Call]:
    return [inner for inner in ast.walk(node) if isinstance(inner, ast.Call)]


def _check_statement(statement: ast.stmt) -> None:
    if not isinstance(statement, ast.Assign | ast.Return) or statement.value is None:
        raise _RefusedError(f"the code {ast.unparse(statement)!r:.80}")
    for call in _calls(statement):
        if not _is_operator(call.func):
            raise _RefusedError(f"the operator {ast.unparse(call.func)!r:.80}")


def _is_operator(function: ast.expr) -> bool:
    match function:
        case ast.Attribute(value=ast.Name(id="torch"), attr=name):
            return name in OPERATORS
        case ast.Name(id="int"):
            return True
        case ast.Attribute(value=ast.Attribute(value=ast.Name(id="ops"), attr="prim"), attr="NumToTensor"):
            # Where padding follows the size of the image, as in networks from TensorFlow, sizes are computed so.
            return True
        case _:
            return False
