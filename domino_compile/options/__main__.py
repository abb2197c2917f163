"""Print the README's tables of options: ``python -m domino_compile.options``."""

from domino_compile.options import markdown

print(markdown())
