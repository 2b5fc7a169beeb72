"""Tasks that come with Gorae, each a file as users write them; `gorae tune --task arithmetic` names one."""
