"""The page: look at a classifier with a browser. Gradio draws the controls, FastAPI serves, one worker computes.

What is computed are the tasks that the command runs, on pictures from `sources`, as rows of `store`.
"""
