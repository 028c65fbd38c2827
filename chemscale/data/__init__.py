"""From a raw source to Parquet shards, splits and subsets."""
