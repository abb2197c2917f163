"""Print the options as the README's tables: ``python -m domino_compile.options``."""

from domino_compile.options import markdown

print(markdown())
