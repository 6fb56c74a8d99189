"""What a run is: recipe, cluster and job, as frozen values. Knows none of the other rooms and never imports torch."""
