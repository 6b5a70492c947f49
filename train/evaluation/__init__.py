"""The published benchmarks: their pictures made into their own layouts, judged, compared, reported."""
