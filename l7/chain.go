package l7

// chain is a route's filters, sorted into one list per phase when the route is
// built: a phase that no filter has costs one length check.
type chain struct {
	filters []Filter

	request, pick, upstream, retry []int // indices into filters, first to last
	requestBody                    []int
	response, responseBody, fail   []int // last to first
	log                            []int

	blockingIn, blockingOut bool // a body phase of that direction runs off the loop
	changesIn, changesOut   bool // a phase may change the request's head, the response's
}

func newChain(filters []Filter) chain {
	c := chain{filters: filters}
	for i := range filters {
		f := &filters[i]
		c.blockingIn = c.blockingIn || f.Blocking && f.RequestBody != nil
		c.blockingOut = c.blockingOut || f.Blocking && f.ResponseBody != nil
		c.request = addIf(c.request, i, f.Request != nil)
		c.requestBody = addIf(c.requestBody, i, f.RequestBody != nil)
		c.pick = addIf(c.pick, i, f.Pick != nil)
		c.upstream = addIf(c.upstream, i, f.Upstream != nil)
		c.retry = addIf(c.retry, i, f.Retry != nil)
	}
	c.changesIn = len(c.request)+len(c.requestBody)+len(c.pick)+len(c.upstream)+len(c.retry) > 0
	for i := len(filters) - 1; i >= 0; i-- {
		f := &filters[i]
		c.response = addIf(c.response, i, f.Response != nil)
		c.responseBody = addIf(c.responseBody, i, f.ResponseBody != nil)
		c.fail = addIf(c.fail, i, f.Fail != nil)
		c.log = addIf(c.log, i, f.Log != nil)
	}
	c.changesOut = len(c.response)+len(c.requestBody) > 0
	return c
}

func addIf(list []int, i int, has bool) []int {
	if has {
		return append(list, i)
	}
	return list
}
