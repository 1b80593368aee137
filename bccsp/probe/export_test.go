package probe

// Break replaces the module by one that wraps it.
func (b *Bench) Break(wrap func(Module) Module) { b.module = wrap(b.module) }
