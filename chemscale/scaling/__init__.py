"""Scaling laws: forms, fits, intervals, verdicts. numpy, scipy and pandas only; every result is deterministic.

`law` holds the forms, `fit` finds their parameters, `bootstrap` the noise and the intervals, `verdict` the reasons to
refuse; `estimate` joins them for one set of points, `study_fits` for a study's tables, `contrasts` for two series of
cells, `table` and `table_file` for anybody's table.
"""
