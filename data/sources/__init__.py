"""Where shards come from: a folder, a list of shards, a web server, an object store. Knows nothing of training."""
