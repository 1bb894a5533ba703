"""The direction of imports, walked file by file, and the size of the files."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "mask2former"
# A module may import what stands on a line above its own, and its own folder.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("allocator", "archive", "masks", "serialization", "tracing"),
    ("onednn",),
    ("imaging",),
    ("structures",),
    ("data", "modeling", "loss", "inference", "evaluation"),
    ("weights",),
    ("segmenter",),
    ("training", "export", "serving"),
    ("presets",),
    ("commands", "demo", "cli", "__main__"),
)
TOP = LAYERS[-1]  # each of these may import those before it
# Imported where they are used, never at the top of a module that `import mask2former` loads.
HEAVY = (
    "datasets",
    "faster_coco_eval",
    "lightning_fabric",
    "pycocotools",
    "supervision",
    "tensorboard",
    "timm",
    "torchvision",
    "transformers",
    "triton",
    "wandb",
)
KERNELS = "_triton"  # modules of this ending are made of triton, so they are as heavy as it
MOST_LINES = 450


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    """The folder or the module right under the package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def layer_of(part: str) -> int:
    for index, layer in enumerate(LAYERS):
        if part in layer:
            return index
    raise AssertionError(f"{part} has no place in the architecture: give it one in LAYERS")


def imports(path: Path) -> Iterator[tuple[str, int, bool]]:
    """Every module that a file imports, the line, and whether it is loaded with the file.

    An import for type checking alone is listed, as the direction is about ideas.
    """
    tree = ast.parse(path.read_text())
    inner = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING")
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        top = id(node) not in inner
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno, top
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            assert node.module is not None
            if node.module == "mask2former":  # from mask2former import structures
                for alias in node.names:
                    yield f"mask2former.{alias.name}", node.lineno, top
            else:
                yield node.module, node.lineno, top


def allowed(importer: str, imported: str) -> bool:
    if importer == imported:
        return True
    if importer in TOP and imported in TOP:
        return TOP.index(imported) < TOP.index(importer)
    return layer_of(imported) < layer_of(importer)


def test_imports_point_downward() -> None:
    wrong = []
    for path in files():
        importer = part_of(path)
        if importer == "__init__":
            continue  # the public names
        for module, line, top in imports(path):
            if not module.startswith("mask2former."):
                continue
            imported = module.split(".")[1]
            lazily_to_weights = (
                path == PACKAGE / "modeling" / "mask2former.py"
                and imported == "weights"
                and not top
            )
            if not allowed(importer, imported) and not lazily_to_weights:
                place = path.relative_to(PACKAGE)
                wrong.append(f"{place}:{line}: {importer} imports {module}, which lies above it")
    assert not wrong, "\n".join(wrong)


def test_heavy_dependencies_are_imported_where_they_are_used() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)}:{line}: {module} at the top level"
        for path in files()
        for module, line, top in imports(path)
        if top and (module.split(".")[0] in HEAVY or module.endswith(KERNELS))
        if not (path.stem.endswith(KERNELS) and module.split(".")[0] == "triton")
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_hold_one_idea(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= MOST_LINES, f"{lines} lines hold two ideas: split them"


# --- the walk itself finds faults ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("importer", "imported", "expected"),
    [
        ("modeling", "structures", True),
        ("modeling", "loss", False),
        ("data", "modeling", False),
        ("structures", "masks", True),
        ("masks", "structures", False),
        ("weights", "modeling", True),
        ("modeling", "weights", False),
        ("segmenter", "training", False),
        ("training", "segmenter", True),
        ("training", "presets", False),
        ("cli", "presets", True),
        ("commands", "cli", False),
    ],
)
def test_direction(importer: str, imported: str, expected: bool) -> None:
    assert allowed(importer, imported) is expected


def test_every_kind_of_import_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "example.py"
    path.write_text(
        "import mask2former.loss.points\n"
        "from mask2former import weights\n"
        "from mask2former.data.coco import Coco\n"
        "def f() -> None:\n"
        "    import transformers\n"
        "class C:\n"
        "    import timm\n"
    )
    assert sorted(imports(path), key=lambda found: found[1]) == [
        ("mask2former.loss.points", 1, True),
        ("mask2former.weights", 2, True),
        ("mask2former.data.coco", 3, True),
        ("transformers", 5, False),
        ("timm", 7, True),
    ]
