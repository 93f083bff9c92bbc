from .lifelong_page import write_lifelong_report as write_lifelong_report
from .lifelong_record import check_lifelong_directory as check_lifelong_directory
from .lifelong_record import write_lifelong as write_lifelong
from .page import write_report as write_report
from .scan_record import check_directory as check_directory
from .scan_record import clear_leftovers as clear_leftovers
from .scan_record import write_layer as write_layer
from .scan_record import write_record as write_record
