"""The recipes that come with the package: `vidtwin/recipes/NAME.yaml`, whose heads say what they train."""

import difflib
import re
from dataclasses import dataclass
from pathlib import Path

RECIPES = Path(__file__).parents[1] / "recipes"
OF_GENERATORS = "generator-"
FACTS = re.compile(r"^# (Data|Time|Score): (.*)\.$", re.MULTILINE)


@dataclass(frozen=True)
class ShippedRecipe:
    """What the head of a recipe says: what it trains, on which data, how long that takes, and the score to expect."""

    name: str
    trains: str
    data: str
    time: str
    score: str

    @property
    def of_generator(self) -> bool:
        return self.name.startswith(OF_GENERATORS)


def shipped_recipes() -> list[ShippedRecipe]:
    """All of them, by name; those of autoencoders first."""
    found = [describe(path) for path in sorted(RECIPES.glob("*.yaml"))]
    return sorted(found, key=lambda recipe: recipe.of_generator)


def describe(path: Path) -> ShippedRecipe:
    """What the head of a shipped recipe says."""
    text = path.read_text()
    about = text.split("\n#   ")[0]  # its first command
    facts = {name.lower(): value for name, value in FACTS.findall(text)}
    return ShippedRecipe(path.stem, about.replace("\n#", "").removeprefix("# "), **facts)


def find_recipe(given: str | Path) -> Path:
    """The file of a recipe: a path, or if no such file is there the name of a shipped one, also as NAME.yaml or recipes/NAME.yaml.

    Raises:
        FileNotFoundError: neither; the message names the nearest shipped one.
    """
    path = Path(given)
    if path.is_file():
        return path
    shipped = {recipe.stem: recipe for recipe in RECIPES.glob("*.yaml")}
    name = path.name.removesuffix(".yaml")
    if name in shipped and path.parent in (Path(), Path("recipes")):
        return shipped[name]
    near = difflib.get_close_matches(name, shipped, n=1)
    meant = f" (did you mean {near[0]}?)" if near else ""
    raise FileNotFoundError(
        f"{path}: no such recipe{meant}; give a YAML file, or the name of a shipped one, which `vidtwin recipes` lists"
    )
