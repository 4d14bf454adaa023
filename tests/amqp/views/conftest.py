"""What tests of views share: they are asked for over the admin API."""

from support.admin import admin as admin
