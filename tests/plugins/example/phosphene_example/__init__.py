"""What another package adds to phosphene: a method, a recipe, a kind of target; a file and an entry point each."""
