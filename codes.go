package lb

// The codes of errors in a document: LB10xx its text and values, LB11xx
// routes, LB12xx listeners, LB13xx pools, LB14xx the node, LB15xx what is in
// the files that it names, LB16xx services. They are a contract.
const (
	CodeSyntax      = "LB1001"
	CodeTooLarge    = "LB1002"
	CodeTooDeep     = "LB1003"
	CodeDocuments   = "LB1004"
	CodeDuplicate   = "LB1005"
	CodeUnknownKey  = "LB1006"
	CodeType        = "LB1007"
	CodeMissing     = "LB1008"
	CodeEmpty       = "LB1009"
	CodeChoice      = "LB1010"
	CodeRange       = "LB1011"
	CodeDuration    = "LB1012"
	CodeSize        = "LB1013"
	CodeShare       = "LB1014"
	CodeAddress     = "LB1015"
	CodeNetwork     = "LB1016"
	CodeText        = "LB1017"
	CodeYAML        = "LB1018"
	CodeAlias       = "LB1019"
	CodeName        = "LB1020"
	CodeUnavailable = "LB1021"
	CodeSection     = "LB1022"

	CodeRouteListener = "LB1101"
	CodeRouteAction   = "LB1102"
	CodeRoutePool     = "LB1103"
	CodeFilterUnknown = "LB1104"
	CodeFilter        = "LB1105"
	CodeMatch         = "LB1106"
	CodeRouteAnswer   = "LB1107"
	CodeRetry         = "LB1108"

	CodeTLSNeeded    = "LB1201"
	CodeTLSRefused   = "LB1202"
	CodeListenerPool = "LB1203"
	CodeBindTwice    = "LB1204"
	CodeOtherSetting = "LB1205"

	CodeCheckKind    = "LB1301"
	CodeHash         = "LB1302"
	CodeBackendTwice = "LB1303"
	CodeKeyPair      = "LB1304"
	CodeWeights      = "LB1305"
	CodeServerName   = "LB1306"
	CodeDiscover     = "LB1307"
	CodeProxyHeader  = "LB1308"

	CodeClusterKey  = "LB1401"
	CodeNodeAddress = "LB1402"
	CodePath        = "LB1403"

	CodeFileRead    = "LB1501"
	CodeFileContent = "LB1502"
	CodeFilePair    = "LB1503"

	CodeServiceBind     = "LB1601"
	CodeServicePool     = "LB1602"
	CodeServiceFastpath = "LB1603"
	CodeFragments       = "LB1604"
)
