"""`condvae explore`: a page on this machine that shows a run. `answers.py` computes, `page.py` shows."""
