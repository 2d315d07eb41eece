"""Images made from the classifier alone: one loop, small parts, and recipes that put them together.

Importing this package registers the recipes.
"""

import phosphene.synthesis.recipes  # noqa: F401
