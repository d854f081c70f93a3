"""State beside the objects: peers, jobs, and the procedure steps of a department.

What no object file tells lives in `<storage>/workflow.sqlite`, apart from the index: the index can be made
again from the files at any time, this cannot. The room knows neither association nor HTTP.
"""
