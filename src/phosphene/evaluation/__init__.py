"""Methods measured over sets of pictures: the pipeline run on data, and the metrics of what came out."""
