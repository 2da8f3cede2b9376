"""The web page (`vidtwin demo`): `studio.py` does the work, `page.py` shows it, `visitors.py` keeps visitors apart."""
