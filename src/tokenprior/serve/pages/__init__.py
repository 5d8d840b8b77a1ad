"""Pages: a store looked at in a browser, on this machine alone.

Every module of a page has `routes()`; its addresses, all below a run where there is one:

    runs.py      /
    run.py       /runs/RUN, and what moves in it: /live; /story?before=, /attempts?phase=&trouble=
    library.py   /runs/RUN/library?at=VERSION, /library/diff?before=&after=, /library/export?form=&at=, /versions
    lesson.py    /runs/RUN/lessons/ID, /edit; POST /runs/RUN/edit, /runs/RUN/pin
    group.py     /runs/RUN/groups, /group?step=&task=, /attempt?phase=&step=&task=&attempt=&made_of=
    compare.py   /runs/RUN/comparison
    report.py    /runs/RUN/report
    calls.py     /runs/RUN/calls, /runs/RUN/calls/ID
    start.py     /start
    control.py   POST /runs/RUN/stop, /runs/RUN/go-on
"""
