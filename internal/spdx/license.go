package spdx

import (
	"slices"
	"strings"
)

// licenses are the names of FreeBSD's ports (Mk/bsd.licenses.db.mk) and what SPDX's
// list (3.24) calls them. A name of ports with a "+" means "or later".
var licenses = map[string]string{
	"AGPLv3": "AGPL-3.0-only", "AGPLv3+": "AGPL-3.0-or-later",
	"APACHE10": "Apache-1.0", "APACHE11": "Apache-1.1", "APACHE20": "Apache-2.0",
	"ART10": "Artistic-1.0", "ART20": "Artistic-2.0", "ARTPERL10": "Artistic-1.0-Perl", "ClArtistic": "ClArtistic",
	"BSD0CLAUSE": "0BSD", "BSD1CLAUSE": "BSD-1-Clause", "BSD2CLAUSE": "BSD-2-Clause", "BSD3CLAUSE": "BSD-3-Clause", "BSD4CLAUSE": "BSD-4-Clause",
	"BSL":  "BSL-1.0",
	"CDDL": "CDDL-1.0", "CPL": "CPL-1.0", "EPL": "EPL-1.0", "EPL10": "EPL-1.0", "EPL20": "EPL-2.0",
	"EUPL11": "EUPL-1.1", "EUPL12": "EUPL-1.2",
	"GMGPL": "GPL-2.0-or-later WITH GNAT-exception",
	"GPLv1": "GPL-1.0-only", "GPLv1+": "GPL-1.0-or-later",
	"GPLv2": "GPL-2.0-only", "GPLv2+": "GPL-2.0-or-later",
	"GPLv3": "GPL-3.0-only", "GPLv3+": "GPL-3.0-or-later",
	"GPLv3RLE": "GPL-3.0-only WITH GCC-exception-3.1", "GPLv3RLE+": "GPL-3.0-or-later WITH GCC-exception-3.1",
	"ISCL":   "ISC",
	"LGPL20": "LGPL-2.0-only", "LGPL20+": "LGPL-2.0-or-later",
	"LGPL21": "LGPL-2.1-only", "LGPL21+": "LGPL-2.1-or-later",
	"LGPL3": "LGPL-3.0-only", "LGPL3+": "LGPL-3.0-or-later",
	"LPPL10": "LPPL-1.0", "LPPL11": "LPPL-1.1", "LPPL12": "LPPL-1.2", "LPPL13a": "LPPL-1.3a", "LPPL13c": "LPPL-1.3c",
	"MIT":   "MIT",
	"MPL10": "MPL-1.0", "MPL11": "MPL-1.1", "MPL20": "MPL-2.0",
	"NCSA":  "NCSA",
	"OFL10": "OFL-1.0", "OFL11": "OFL-1.1",
	"OpenSSL": "OpenSSL", "PostgreSQL": "PostgreSQL",
	"PHP30": "PHP-3.0", "PHP301": "PHP-3.01",
	"PSFL": "PSF-2.0", "RUBY": "Ruby", "UNLICENSE": "Unlicense",
	"WTFPL": "WTFPL", "ZLIB": "Zlib", "ZPL21": "ZPL-2.1",
	"CC0-1.0": "CC0-1.0", "CC-BY-3.0": "CC-BY-3.0", "CC-BY-4.0": "CC-BY-4.0",
	"CC-BY-SA-3.0": "CC-BY-SA-3.0", "CC-BY-SA-4.0": "CC-BY-SA-4.0",
}

// License is what SPDX calls a licence of FreeBSD's ports: an identifier of its list,
// or a LicenseRef when the list does not have it.
func License(name string) (id string, listed bool) {
	if id, ok := licenses[name]; ok {
		return id, true
	}
	for _, id := range licenses {
		if id == name {
			return id, true
		}
	}
	return "LicenseRef-FreeBSD-" + clean(strings.ReplaceAll(name, "+", "-or-later")), false
}

// Expression joins licences as a package's manifest does: logic is "single", "and"
// or "or" ("multi" and "dual" before pkg 1.3). Without licences nothing is asserted.
func Expression(logic string, names []string) string {
	var ids []string
	for _, n := range names {
		if id, _ := License(n); !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	switch {
	case len(ids) == 0:
		return NoAssertion
	case logic == "or" || logic == "dual":
		return strings.Join(ids, " OR ")
	}
	return strings.Join(ids, " AND ")
}
