"""The sixteen public benchmarks."""
