"""Names of the files of a part that a launcher reads, without the imports that training needs.

Everything else about the layout is in `dbl.run_folder`; tasks of a cluster name these files before they load PyTorch.
"""

STATUS = "status.json"
LOG = "train.log"
