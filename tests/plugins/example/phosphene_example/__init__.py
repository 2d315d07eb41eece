"""An example of a package that adds a method and a recipe to phosphene, by a file and an entry point each."""
