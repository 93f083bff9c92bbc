from .checkpoints import load as load
from .core.bootstrap import Interval as Interval
from .core.bootstrap import kurtosis_interval as kurtosis_interval
from .core.density import gaussian_density as gaussian_density
from .core.moments import Moments as Moments
from .core.moments import moments as moments
from .core.second_moment import SecondMoment as SecondMoment
from .core.summary import Summary as Summary
from .core.summary import summarize as summarize
from .core.superposition import angles as angles
from .core.superposition import cosine_similarity as cosine_similarity
from .core.superposition import gram as gram
from .core.superposition import off_diagonal_moments as off_diagonal_moments
from .core.superposition import superposition as superposition
from .core.tail import tail_index as tail_index
from .core.whitening import Whitener as Whitener
from .core.whitening import whitener as whitener

__version__: str
