"""The web page (`vidtwin demo`).

`studio.py` does the work in the process of `worker.py`, `page.py` shows it (`desk.py`: clicks), `server.py` serves it; `gate.py`
and `folder.py` bound what visitors can do and leave.
"""
