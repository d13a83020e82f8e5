"""Running chapters as tests: each in a fresh kernel, watched from outside, judged by what it left in its notebook.

Nothing here believes an exit status alone, and whatever a chapter leaves behind is found and removed without its help.
"""
