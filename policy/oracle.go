package policy

// oracle decides a policy the way Fabric's own closures do (common/cauthdsl:
// compile; common/policies: ImplicitMetaPolicy.EvaluateIdentities), without Rego.
// It is what the generated Rego is held against, and decides nothing itself.
func oracle(n *node, rows []row) bool {
	switch n.kind {
	case meta:
		remaining := int(n.n)
		for _, sub := range n.children {
			if oracle(sub, rows) {
				if remaining--; remaining == 0 {
					return true
				}
			}
		}
		return remaining == 0
	case reject:
		return false
	}
	return oracleSigned(n, rows, make([]bool, len(rows)))
}

// oracleSigned marks in used the signers that the node took. After false, used
// means nothing: the gate above works on a copy and discards it.
func oracleSigned(n *node, rows []row, used []bool) bool {
	if n.kind == leaf {
		for i, r := range rows {
			if !used[i] && r.has(n.column) {
				used[i] = true
				return true
			}
		}
		return false
	}
	held := int32(0)
	try := make([]bool, len(used))
	for _, child := range n.children {
		copy(try, used)
		if oracleSigned(child, rows, try) {
			held++
			copy(used, try)
		}
	}
	return held >= n.n
}
